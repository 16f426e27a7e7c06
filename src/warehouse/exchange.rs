//! The contents of a table exchanged for those of another of the same shape, as statements.
//!
//! Owns: their text. Does not own: the transaction around them (`rebuild`).
//!
//! Rows that are in both stay untouched: a rebuild that came to the same writes nothing. Readers see
//! the rows of before until COMMIT, and the table stays the one that views, grants and indexes of
//! others are of. Whole rows are compared by EXCEPT, for which NULL equals NULL; what is gone is found
//! by its key as JSON, so that both are hashed however large the tables are.

use super::tables::{Shape, list, quoted};

/// The steps, in order.
pub struct Exchange {
    /// What the shadow has and the table has not.
    pub add: String,
    /// Whether both have as many rows now: then they have the same, and there is nothing to remove.
    pub is_done: String,
    /// What the shadow has not.
    pub remove: String,
}

/// `part`: what of both is meant, as a condition on columns that both have; all without it.
pub fn exchange(live: &Shape, shadow: &Shape, part: Option<&str>) -> Exchange {
    let part = part.map_or(String::new(), |part| format!(" WHERE {part}"));
    let stored: Vec<&str> =
        live.wanted.iter().filter(|c| !c.generated).map(|c| c.name.as_str()).collect();
    let columns = list(&stored, |name| quoted(name));
    let key = list(&live.key, |name| quoted(name));
    let values = stored.iter().filter(|name| live.key.iter().all(|key| key != *name));
    let sets = list(values, |name| format!("{0} = excluded.{0}", quoted(name)));
    let conflict = match sets.is_empty() {
        true => "DO NOTHING".to_owned(),
        false => format!("DO UPDATE SET {sets}"),
    };
    let of = |alias: &str| {
        let key = list(&live.key, |name| format!("{alias}.{}", quoted(name)));
        format!("jsonb_build_array({key})")
    };
    let (table, beside) = (quoted(&live.table), quoted(&shadow.table));
    Exchange {
        add: format!(
            "INSERT INTO {table} ({columns})
             SELECT {columns} FROM (SELECT {columns} FROM {beside}{part}
             EXCEPT SELECT {columns} FROM {table}{part}) AS fresh
             ORDER BY {key}
             ON CONFLICT ({key}) {conflict}"
        ),
        is_done: format!(
            "SELECT (SELECT count(*) FROM {table}{part}) = (SELECT count(*) FROM {beside}{part})"
        ),
        remove: format!(
            "DELETE FROM {table} AS t
             USING (SELECT {key} FROM {table}{part} EXCEPT SELECT {key} FROM {beside}{part}) AS gone
             WHERE {} = {}",
            of("t"),
            of("gone")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warehouse::{
        tables::Table,
        tests::{aggregate, append},
    };

    #[test]
    fn computed_columns_are_left_to_postgresql_and_keys_are_not_written_over() {
        let (live, shadow) = (Table::new(&aggregate("taps_5m")), Table::new(&aggregate("other")));
        let Exchange { add, remove, .. } = exchange(&live.shape, &shadow.shape, None);
        assert!(add.contains("\"fare\" = excluded.\"fare\""), "{add}");
        assert!(!add.contains("\"mean\""), "{add}");
        assert!(!add.contains("\"stop_id\" = excluded"), "{add}");
        let gone = "jsonb_build_array(t.\"window_start\", t.\"stop_id\")";
        assert!(remove.contains(gone), "{remove}");
        let appended = Table::new(&append("raw"));
        assert!(exchange(&appended.shape, &appended.shape, None).add.contains("_offset"));
    }
}
