//! Cuts, deltas and lateness by example.

use super::{declared, event, fates, mark, record, records};
use crate::{
    catalog::{ModelKind, Role},
    compute::rows::REDUCE_AT_ROWS,
    record::{EventTime, Offset, Output, Partition},
};

#[test]
fn a_cut_of_nothing_has_no_delta_and_counts_nothing() {
    let m = declared(&[
        "grouped AS SELECT k, count(*) AS rows FROM events GROUP BY k",
        "kept WITH (primary_key = 'k') AS SELECT k, n FROM events",
        "logged AS SELECT k FROM events",
    ]);
    let mut tables = m.fresh();
    for _ in 0..2 {
        let sealed = tables.seal().unwrap();
        assert!(sealed.tables.is_empty() && sealed.late.is_empty());
        assert_eq!(sealed.counts.len(), 4);
        assert!(sealed.counts.values().all(|c| *c == Default::default()));
    }
    let cut = m.cut(&[]);
    assert!(cut.refused.is_empty() && cut.sealed.tables.is_empty());
}

#[test]
fn a_cut_holds_nothing_of_the_one_before() {
    let m = declared(&[
        "m AS SELECT k, count(*) AS rows, min(n) AS low, max(txt) AS high FROM events GROUP BY k",
    ]);
    let mut tables = m.fresh();
    let events = [
        event(0, "\"k\": \"a\", \"n\": 1, \"txt\": \"z\""),
        event(1, "\"k\": \"a\", \"n\": 9, \"txt\": \"a\""),
    ];
    for (from, wanted) in [(0, "a 1 1 z "), (1, "a 1 9 a ")] {
        let records = &records(&events)[from..=from];
        let decoded = m.decode(records);
        tables.admit(records, &decoded, &[(Partition(0), Offset(from as i64))], &[]).unwrap();
        let sealed = tables.seal().unwrap();
        let cut = super::Cut { refused: Vec::new(), sealed };
        assert_eq!(cut.rows(), [wanted]);
        assert_eq!(cut.fates("m"), fates(1, 0, 0, 0));
    }
}

#[test]
fn a_model_that_takes_no_event_has_no_delta_but_fates() {
    let m = declared(&["m AS SELECT k, count(*) AS rows FROM events WHERE k = 'x' GROUP BY k"]);
    let cut = m.cut(&[event(0, ""), event(5, "\"k\": \"y\"")]);
    assert!(cut.sealed.tables.is_empty());
    assert_eq!(cut.fates("m"), fates(0, 2, 0, 0));
    let counted = cut.sealed.counts[&(Output::Model("m".into()), Partition(0))];
    assert_eq!(counted.event_time_max, Some(EventTime(5_000_000)));
}

#[test]
fn sums_of_whole_numbers_are_exact_beyond_64_bits() {
    let m = declared(&[
        "m AS SELECT 'all' AS scope, sum(big) AS s, sum(n) AS i FROM events GROUP BY scope",
    ]);
    let events = vec![event(0, "\"big\": 9223372036854775807, \"n\": 2147483647"); 1_000];
    assert_eq!(m.cut(&events).rows(), ["all 9223372036854775807000 2147483647000 "]);
}

#[test]
fn every_type_that_the_catalog_takes_is_grouped_counted_and_compared() {
    let columns = [
        "k", "small", "n", "big", "amount", "wide", "ratio", "single", "day", "id", "at", "flag",
        "raw", "doc",
    ];
    let members = r#""k": "a", "small": 1, "n": 2, "big": 3, "amount": "4.00", "wide": "5", "ratio": 6.5, "single": 7.5,
        "day": "2024-03-01", "id": "0f8fad5b-d9cb-469f-a165-70867728950e", "flag": true, "raw": "AAE=", "doc": {"a": 1}"#;
    let events = [event(1, members), event(1, "")];
    for column in columns {
        for aggregate in ["count", "min", "max", "sum"] {
            let compared = !["flag", "raw", "doc"].contains(&column);
            let summed = ["small", "n", "big", "amount", "ratio", "single"].contains(&column);
            if aggregate == "sum" && !summed || aggregate != "count" && !compared {
                continue;
            }
            let m = declared(&[&format!(
                "m AS SELECT txt, {aggregate}({column}) AS x FROM events GROUP BY txt"
            )]);
            let cut = m.cut(&events);
            let ModelKind::Aggregate(kept) = &m.models[0].kind else { panic!("an aggregate") };
            let delta = &cut.sealed.tables[0].1.rows;
            assert_eq!(
                *delta.column(1).data_type(),
                kept.parts[0].columns[0].arrow,
                "{aggregate}({column})"
            );
            assert_eq!(delta.num_rows(), 1, "{aggregate}({column})");
        }
        if ["ratio", "single", "doc"].contains(&column) {
            continue;
        }
        let groups = if column == "at" { 1 } else { 2 };
        for statement in [
            format!("m AS SELECT {column} AS key, count(*) AS x FROM events GROUP BY key"),
            format!("m WITH (primary_key = 'key') AS SELECT {column} AS key, n AS x FROM events"),
        ] {
            let m = declared(&[&statement]);
            let cut = m.cut(&events);
            let delta = &cut.sealed.tables[0].1.rows;
            assert_eq!(delta.num_rows(), groups, "{statement}");
            let key = m.models[0].columns.iter().find(|c| c.role == Role::Key).unwrap();
            assert_eq!(*delta.column(0).data_type(), key.pg.arrow(), "{statement}");
        }
    }
}

#[test]
fn rows_that_pile_up_are_reduced_to_the_latest_of_each_key() {
    let m = declared(&["m WITH (primary_key = 'k') AS SELECT k, n FROM events"]);
    let mut tables = m.fresh();
    let mut offset = 0;
    let mut highest = 0;
    for batch in 0..40 {
        // The second event of each key is older, and so never the latest.
        let events: Vec<_> = (0..4_000)
            .map(|i| {
                event(
                    if i < 2_000 { batch } else { -1 },
                    &format!("\"k\": \"{}\", \"n\": {batch}", i % 2_000),
                )
            })
            .collect();
        let records: Vec<_> =
            events.iter().enumerate().map(|(i, text)| record(0, offset + i as i64, text)).collect();
        let decoded = m.decode(&records);
        tables.admit(&records, &decoded, &[(Partition(0), Offset(offset))], &[]).unwrap();
        offset += 4_000;
        highest = highest.max(tables.memory());
    }
    let sealed = tables.seal().unwrap();
    assert_eq!(sealed.tables[0].1.rows.num_rows(), 2_000);
    let rows = super::values(&sealed.tables[0].1.rows);
    assert!(rows.iter().all(|row| row[1] == super::Value::Int(39)));
    // 160,000 events came; at most this many rows are held.
    let held = REDUCE_AT_ROWS + 2 * 2_000 + 4_000;
    assert!(highest < held * 200, "{highest} bytes");
    assert_eq!(tables.memory(), 0);
}

#[test]
fn an_event_that_where_leaves_out_is_filtered_and_never_late() {
    let late = |option: &str| {
        declared(&[&format!(
            "m WITH (allowed_lateness = '0s', late = '{option}') AS
             SELECT tumble(interval '10 seconds') AS w, count(*) AS rows FROM events WHERE k = 'a' GROUP BY w"
        )])
    };
    let events = [
        event(100, ""),
        event(1, "\"k\": \"b\""),
        event(1, "\"k\": \"a\""),
        event(95, "\"k\": \"a\""),
    ];
    let cut = late("drop").cut(&events);
    assert_eq!(cut.fates("m"), fates(1, 2, 1, 0));
    assert_eq!(cut.sealed.late.values().copied().collect::<Vec<_>>(), [1]);
    let cut = late("amend").cut(&events);
    assert_eq!(cut.fates("m"), fates(2, 2, 0, 0));
    assert_eq!(cut.sealed.late.values().copied().collect::<Vec<_>>(), [1]);
}

#[test]
fn a_late_event_goes_to_the_windows_of_hop_that_are_not_final() {
    let hop = |option: &str| {
        declared(&[&format!(
            "m WITH (late = '{option}') AS SELECT hop(interval '10 seconds', interval '30 seconds') AS w,
             count(*) AS rows FROM events GROUP BY w"
        )])
    };
    // Disorder is 10 s: at 40 s [-10, 20) and [0, 30) are final, [10, 40) and [20, 50) are not.
    let events = [event(25, ""), event(40, ""), event(25, ""), event(29, ""), event(5, "")];
    let cut = hop("drop").cut(&events);
    assert_eq!(cut.fates("m"), fates(4, 0, 1, 0), "of the last one every window is final");
    let seconds = |row: &str| row.replace("000000 ", " ");
    let rows: Vec<_> = cut.rows().iter().map(|row| seconds(row)).collect();
    assert_eq!(rows, ["0 30 1 ", "10 40 3 ", "20 50 4 ", "30 60 1 ", "40 70 1 "]);
    assert_eq!(cut.sealed.late.values().copied().collect::<Vec<_>>(), [3]);
    let cut = hop("amend").cut(&events);
    assert_eq!(cut.fates("m"), fates(5, 0, 0, 0));
    let rows: Vec<_> = cut.rows().iter().map(|row| seconds(row)).collect();
    assert_eq!(rows[..3], ["-20 10 1 ", "-10 20 1 ", "0 30 4 "]);
    assert_eq!(cut.sealed.late.values().copied().collect::<Vec<_>>(), [3]);
}

#[test]
fn lateness_goes_on_from_the_mark() {
    let m = declared(&[
        "m WITH (late = 'drop') AS SELECT tumble(interval '10 seconds') AS w, count(*) AS rows FROM events GROUP BY w",
    ]);
    let events = [event(5, ""), event(5, "")];
    // Disorder is 10 s, so [0, 10) is final at 20 s.
    for (seen, wanted) in [
        (None, fates(2, 0, 0, 0)),
        (Some(19_999_999), fates(2, 0, 0, 0)),
        (Some(20_000_000), fates(0, 0, 2, 0)),
    ] {
        let mut tables = m.tables();
        let marks: Vec<_> =
            tables.outputs().into_iter().map(|o| (o, Partition(0), mark(0, seen))).collect();
        tables.adopt(&marks, &[]);
        let records = records(&events);
        let decoded = m.decode(&records);
        tables.admit(&records, &decoded, &[(Partition(0), Offset(0))], &[]).unwrap();
        let counted = tables.seal().unwrap().counts;
        let counted = counted[&(Output::Model("m".into()), Partition(0))];
        assert_eq!(counted.fates, wanted, "{seen:?}");
        assert_eq!(counted.event_time_max, Some(EventTime(seen.unwrap_or(5_000_000))));
    }
}

#[test]
fn instants_at_the_ends_of_64_bits_have_a_window() {
    let text = "topic = \"t\"\nformat = \"json\"\n[columns]\nn = { type = \"integer\", optional = true }\n";
    let sql = "CREATE MATERIALIZED VIEW m AS SELECT tumble(interval '1 hour') AS w, count(*) AS rows FROM t GROUP BY w";
    let catalog = crate::catalog::check(
        &[("topics/t.toml".into(), text.to_owned())],
        &[("sql/models/m.sql".into(), sql.to_owned())],
    )
    .unwrap();
    let m = super::Declared {
        topic: catalog.topics["t"].clone(),
        models: catalog.models.into_values().collect(),
    };
    // Kafka's timestamp is the producer's: anything.
    let mut records = [record(0, 0, "{}"), record(0, 1, "{}")];
    records[0].timestamp = EventTime(i64::MIN);
    records[1].timestamp = EventTime(i64::MAX);
    let mut tables = m.fresh();
    tables.admit(&records, &m.decode(&records), &[(Partition(0), Offset(0))], &[]).unwrap();
    let sealed = tables.seal().unwrap();
    for row in super::values(&sealed.tables[0].1.rows) {
        assert!(row[0] < row[1], "{row:?}");
    }
    let counted = sealed.counts[&(Output::Model("m".into()), Partition(0))];
    assert_eq!(counted.event_time_max, Some(EventTime(i64::MAX)));
}
