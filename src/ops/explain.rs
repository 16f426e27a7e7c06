//! `highwater explain MODEL`: how one model is computed and kept, offline.
//!
//! Owns: the order of telling. Does not own: what it tells of: the catalog's expressions, the
//! statements of `warehouse::tables`, as they are run.

use super::{load, model};
use crate::{
    catalog::{Aggregate, Catalog, Model, ModelKind},
    config::Config,
    error::Result,
    warehouse::{finality::FinalView, tables::Table},
};
use std::fmt::Write;

/// Prints the plan: what a record goes through, what a cut sends, what PostgreSQL keeps.
///
/// # Errors
/// `Config`: no such model, or mistakes in topics and models.
pub fn explain(config: &Config, name: &str) -> Result<()> {
    let catalog = load(config)?;
    print!("{}", explained(&catalog, model(&catalog, name)?));
    Ok(())
}

fn explained(catalog: &Catalog, model: &Model) -> String {
    let mut out = model.describe();
    let _ = write!(out, "\neach record of {}\n", model.topic);
    if let Some(unique) = &catalog.topics[&model.topic].unique {
        let within = crate::record::quantity::show_duration(unique.within);
        let _ = writeln!(out, "  is left out if its key was there within {within}");
    }
    if let Some(join) = &model.join {
        let on = join.on.join(", ");
        let _ = writeln!(out, "  is looked up in {} by {on}", join.reference.name);
    }
    if let Some(filter) = &model.filter {
        let _ = writeln!(out, "  passes where {filter}");
    }
    match &model.kind {
        ModelKind::Aggregate(aggregate) => tell_aggregate(&mut out, aggregate),
        ModelKind::Rows(rows) => {
            for (column, expr) in model.columns.iter().zip(&rows.exprs) {
                let _ = writeln!(out, "  gives {} = {expr}", column.name);
            }
        }
    }
    let table = Table::new(model);
    let _ = writeln!(
        out,
        "\na cut sends one row per {}, sorted by key",
        match (&model.kind, &model.folding) {
            (_, Some(_)) => "change; the stored rows of its keys are read, folded and written back",
            (ModelKind::Rows(rows), None) if rows.primary_key.is_empty() => "record",
            (ModelKind::Rows(_) | ModelKind::Aggregate(_), None) => "key",
        }
    );
    for (name, pg) in &table.columns {
        let _ = writeln!(out, "  {name} {pg}");
    }
    let _ = writeln!(out, "\nin one transaction with the marks of output model:{}", model.name);
    let merges = match (&table.sessions, &table.following) {
        (None, None) => vec![table.merge_arrays.as_str()],
        // Read, joined or folded in the process, written back.
        (Some(_), _) | (_, Some(_)) => Vec::new(),
    };
    let creates = table.creates().map(|(create, _)| create);
    let view = FinalView::of(model);
    let view = view.iter().map(FinalView::create);
    for statement in creates.chain(view).chain(merges) {
        let _ = writeln!(out, "{};\n", statement.trim().trim_end_matches(';'));
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn tell_aggregate(out: &mut String, aggregate: &Aggregate) {
    if let Some(window) = &aggregate.window {
        let _ = writeln!(out, "  falls into {} of its event time", window.shape);
    }
    for key in &aggregate.keys {
        let _ = writeln!(out, "  belongs to {} = {}", key.name, key.expr);
    }
    for part in &aggregate.parts {
        let args: Vec<String> = part.args.iter().map(ToString::to_string).collect();
        let filter = part.filter.as_ref().map(|f| format!(" where {f}")).unwrap_or_default();
        let columns: Vec<&str> = part.columns.iter().map(|column| column.name.as_str()).collect();
        let function = format!("{:?}", part.function).to_lowercase();
        let _ = writeln!(
            out,
            "  adds to {}: {function}({}){filter}",
            columns.join(", "),
            args.join(", ")
        );
    }
}
