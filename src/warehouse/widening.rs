//! What makes a model's tables those of the same model over a wider topic.
//!
//! Owns: the statements, and which differences they can bridge. Does not own: when they run (`drift`).
//!
//! A column is added at the end, NULL in the rows that are there; a type becomes a wider one, and no value
//! another. An aggregate over a column that got wider may keep other parts: that is another model.

use super::tables::{Found, Table, quoted};
use crate::catalog::{Model, ModelKind};

/// In order; none: the tables are the same. Else why the model cannot follow.
pub fn alterations(old: &Model, new: &Model) -> Result<Vec<String>, String> {
    let (before, after) = (Table::new(old), Table::new(new));
    if before.definition == after.definition {
        return Ok(Vec::new());
    }
    let mut statements = Vec::new();
    for (was, is) in before.shapes().zip(after.shapes()) {
        let mut actions = Vec::new();
        for wanted in is.wanted.iter().filter(|wanted| !was.wanted.contains(wanted)) {
            actions.push(match was.wanted.iter().find(|found| found.name == wanted.name) {
                None => format!("ADD COLUMN {} {}", quoted(&wanted.name), spelled(wanted)),
                Some(_) => {
                    format!("ALTER COLUMN {} TYPE {}", quoted(&wanted.name), spelled(wanted))
                }
            });
        }
        let gone = was.wanted.iter().any(|w| is.wanted.iter().all(|i| i.name != w.name));
        let is_same = was.table == is.table && was.key == is.key && !gone;
        let is_kept = matches!(new.kind, ModelKind::Aggregate(_)) && !actions.is_empty();
        if !is_same || is_kept {
            return Err(format!(
                "the table {} of model {} would keep other columns, which no ALTER TABLE makes of those it has; make \
                 the model anew under another name, or cast the column to its present type in it",
                is.table, new.name
            ));
        }
        if !actions.is_empty() {
            statements.push(format!("ALTER TABLE {} {}", quoted(&is.table), actions.join(", ")));
        }
    }
    statements.extend(after.creates().map(|(_, comment)| comment.to_owned()));
    Ok(statements)
}

fn spelled(column: &Found) -> String {
    match column.collation.is_empty() {
        true => column.pg.clone(),
        false => format!("{} COLLATE {}", column.pg, quoted(&column.collation)),
    }
}
