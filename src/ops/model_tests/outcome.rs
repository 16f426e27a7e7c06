//! What PostgreSQL holds after a fixture, against what it says.
//!
//! Owns: the comparison and how it is told. Equality is PostgreSQL's own: what is expected is read
//! as rows of the table's type, so `2.50` is `2.5` and an instant is one in any zone.

use super::fixture::{Expected, Fixture, Reject, Test};
use crate::{
    error::Result,
    ops::table,
    record::{Fates, Output},
    warehouse::Warehouse,
};
use std::fmt::Write;

/// Empty: all is as expected.
pub async fn differences(warehouse: &Warehouse, fixture: &Fixture, test: &Test) -> Result<String> {
    let mut out = String::new();
    let model = &fixture.model;
    let _ = write!(out, "{}", rows(warehouse, "rows", &model.name, &test.rows).await?);
    if let Some(finals) = &test.finals {
        let _ = write!(out, "{}", rows(warehouse, "final", &model.final_view(), finals).await?);
    }
    let _ = write!(out, "{}", rejects(warehouse, &test.rejects).await?);
    let output = Output::Model(model.name.clone());
    let marks = warehouse.marks(None).await?;
    let mut found = Fates::default();
    for row in marks.iter().filter(|row| row.output == output) {
        found.accepted += row.mark.fates.accepted;
        found.filtered += row.mark.fates.filtered;
        found.late += row.mark.fates.late;
        found.duplicate += row.mark.fates.duplicate;
    }
    let fates = &test.fates;
    for (fate, wanted, found) in [
        ("accepted", fates.accepted, found.accepted),
        ("filtered", fates.filtered, found.filtered),
        ("late", Some(fates.late), found.late),
        ("duplicate", Some(fates.duplicate), found.duplicate),
    ] {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            let _ = writeln!(out, "  fates: {wanted} {fate} expected, found {found}");
        }
    }
    Ok(out)
}

/// Rows of a table or view; those that belong together stand together.
async fn rows(
    warehouse: &Warehouse,
    what: &str,
    relation: &str,
    expected: &Expected,
) -> Result<String> {
    let columns: Vec<String> = expected.columns.iter().map(|name| quoted(name)).collect();
    let columns = columns.join(", ");
    let relation = quoted(relation);
    let json = expected.rows.to_string().replace('\'', "''");
    let sql = format!(
        "WITH e AS (SELECT {columns} FROM jsonb_populate_recordset(NULL::{relation}, '{json}'::jsonb)),
              a AS (SELECT {columns} FROM {relation})
         SELECT * FROM (
           SELECT *, 'expected' AS \" \" FROM (TABLE e EXCEPT ALL TABLE a) missing
           UNION ALL
           SELECT *, 'found' FROM (TABLE a EXCEPT ALL TABLE e) more) both_sides
         ORDER BY {columns}, \" \""
    );
    let (head, rows) = warehouse.query_text(&sql).await?;
    if rows.is_empty() {
        return Ok(String::new());
    }
    // What it is stands first.
    let side_first = |mut row: Vec<String>| {
        row.rotate_right(1);
        row
    };
    let head = side_first(head);
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let text = |cell: Option<String>| cell.unwrap_or_else(|| "NULL".to_owned());
    let rows: Vec<_> =
        rows.into_iter().map(|row| side_first(row.into_iter().map(text).collect())).collect();
    Ok(format!("  {what}:\n{}", indented(&table::render(&head, &rows))))
}

async fn rejects(warehouse: &Warehouse, expected: &[Reject]) -> Result<String> {
    let sql = include_str!("../../../sql/queries/rejects_by_place.sql");
    let (_, found) = warehouse.query_text(sql).await?;
    let mut found: Vec<Vec<String>> = found
        .into_iter()
        .map(|row| row.into_iter().map(Option::unwrap_or_default).collect())
        .collect();
    let mut out = String::new();
    for reject in expected {
        match found.iter().position(|row| is(reject, row)) {
            Some(at) => drop(found.remove(at)),
            None => {
                let _ = writeln!(out, "  rejects: expected, and not there: {}", told(reject));
            }
        }
    }
    for row in found {
        let _ = writeln!(out, "  rejects: not expected: {}", row.join("  "));
    }
    Ok(out)
}

/// Topic, partition, offset, output, class, column, reason.
fn is(reject: &Reject, row: &[String]) -> bool {
    let same = |wanted: &Option<String>, at: usize| wanted.as_ref().is_none_or(|w| *w == row[at]);
    reject.partition.is_none_or(|partition| partition.to_string() == row[1])
        && reject.offset.is_none_or(|offset| offset.to_string() == row[2])
        && same(&reject.output, 3)
        && same(&reject.class, 4)
        && same(&reject.column, 5)
        && reject.reason.as_ref().is_none_or(|part| row[6].contains(part.as_str()))
}

fn told(reject: &Reject) -> String {
    let Reject { partition, offset, output, class, column, reason } = reject;
    let mut out = Vec::new();
    out.extend(partition.map(|partition| format!("partition {partition}")));
    out.extend(offset.map(|offset| format!("offset {offset}")));
    for (name, value) in
        [("output", output), ("class", class), ("column", column), ("reason", reason)]
    {
        out.extend(value.as_ref().map(|value| format!("{name} {value}")));
    }
    out.join(", ")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}
