//! Records of several rows: what of them counts, and with which fate.

use super::*;
use proptest::prelude::*;

fn batched(models: &[&str]) -> Declared {
    let topic = TOPIC.replace("format = \"json\"", "format = \"cloudevents\"\nbatched = true");
    declared_on(&topic, models)
}

fn batch(events: &[String]) -> String {
    let event = |data: &String| {
        format!(r#"{{"specversion":"1.0","type":"t","source":"s","id":"1","data":{data}}}"#)
    };
    format!("[{}]", events.iter().map(event).collect::<Vec<_>>().join(","))
}

/// A row of the property: its second, whether WHERE takes it, whether an expression fails on it.
type Row = (i64, bool, bool);

fn text((second, flag, fails): &Row) -> String {
    let txt = if *fails { "x" } else { "3" };
    event(*second, &format!("\"flag\": {flag}, \"txt\": \"{txt}\""))
}

proptest! {
    /// The oracle goes row by row, and looks at every earlier row again.
    #[test]
    fn a_record_counts_whole_or_not_at_all(
        records in prop::collection::vec(
            prop::collection::vec((-60i64..60, prop::bool::weighted(0.7), prop::bool::weighted(0.1)), 1..5),
            1..25,
        ),
        borders in prop::collection::vec(0usize..25, 0..4),
        refuses in any::<bool>(),
    ) {
        let late = if refuses { "dead-letter" } else { "drop" };
        let model = format!(
            "m WITH (late = '{late}') AS SELECT tumble(interval '10 seconds') AS window, count(*) AS n, \
             sum(CAST(txt AS bigint)) AS total FROM events WHERE flag GROUP BY window"
        );
        let declared = batched(&[&model]);
        let output = Output::Model("m".into());
        let texts: Vec<String> =
            records.iter().map(|rows| batch(&rows.iter().map(text).collect::<Vec<_>>())).collect();
        let sent = super::records(&texts);
        let mut tables = declared.fresh();
        let mut cuts: Vec<usize> = borders.into_iter().map(|b| b.min(records.len())).collect();
        cuts.extend([0, records.len()]);
        cuts.sort_unstable();
        let (mut found, mut refused) = (std::collections::BTreeMap::new(), Vec::new());
        let mut counted = Fates::default();
        for pair in cuts.windows(2) {
            let part = &sent[pair[0]..pair[1]];
            let from = [(Partition(0), Offset(pair[0] as i64))];
            let decoded = declared.decode(part);
            let refusals = tables.admit(part, &decoded, &from, &[]).expect("admitted");
            refused.extend(refusals.into_iter().map(|refusal| pair[0] + refusal.record));
            let sealed = tables.seal().expect("sealed");
            counted += sealed.counts.get(&(output.clone(), Partition(0))).copied().unwrap_or_default().fates;
            let letters = sealed.counts.get(&(Output::DeadLetters, Partition(0)));
            prop_assert_eq!(letters.map_or(0, |c| c.fates.filtered), part.len() as u64);
            for (_, delta) in &sealed.tables {
                let n = delta.rows.schema().index_of("n").expect("a column");
                for row in values(&delta.rows) {
                    let (Value::Int(window), Value::Int(n)) = (&row[0], &row[n]) else { panic!("{row:?}") };
                    *found.entry(*window as i64 / 1_000_000).or_insert(0) += *n as i64;
                }
            }
        }

        let (mut windows, mut dead) = (std::collections::BTreeMap::new(), Vec::new());
        let (mut expected, mut highest) = (fates(0, 0, 0, 0), None);
        for (index, rows) in records.iter().enumerate() {
            let (mut good, mut is_late, mut is_dead) = (Vec::new(), false, false);
            for (second, flag, fails) in rows {
                let begin = second.div_euclid(10) * 10;
                let row_is_late = highest.is_some_and(|max| begin + 10 <= max - 10);
                highest = highest.max(Some(*second));
                match (flag, row_is_late) {
                    (false, _) => {}
                    (true, true) => if refuses { is_dead = true } else { is_late = true },
                    (true, false) if *fails => is_dead = true,
                    (true, false) => good.push(begin),
                }
            }
            if is_dead {
                dead.push(index);
                expected.dead += 1;
            } else if !good.is_empty() {
                expected.accepted += 1;
                good.into_iter().for_each(|begin| *windows.entry(begin).or_insert(0) += 1);
            } else if is_late {
                expected.late += 1;
            } else {
                expected.filtered += 1;
            }
        }
        prop_assert_eq!(counted, expected);
        prop_assert_eq!(refused, dead);
        prop_assert_eq!(found, windows);
    }
}

#[test]
fn of_two_rows_of_a_record_at_one_time_the_one_behind_is_the_later() {
    let rows = ["\"k\": \"a\", \"n\": 1", "\"k\": \"b\", \"n\": 2", "\"k\": \"a\", \"n\": 3"];
    let texts = [batch(&rows.map(|members| event(1, members)))];
    for (model, expected) in [
        ("latest WITH (primary_key = 'k') AS SELECT k, n FROM events", ["a 3", "b 2"]),
        ("ends AS SELECT k, last_value(n) AS n FROM events GROUP BY k", ["a 3", "b 2"]),
        ("begins AS SELECT k, first_value(n) AS n FROM events GROUP BY k", ["a 1", "b 2"]),
    ] {
        let declared = batched(&[model]);
        let rows = declared.cut(&texts).rows();
        let begins = |(row, expected): (&String, &str)| row.starts_with(expected);
        assert!(rows.iter().zip(expected).all(begins), "{model}: {rows:?}");
    }
    let declared = batched(&["facts AS SELECT k, n FROM events"]);
    let cut = declared.cut(&texts);
    assert_eq!(
        cut.rows(),
        ["a 1 1000000 0 0 0 ", "b 2 1000000 0 0 1 ", "a 3 1000000 0 0 2 "],
        "a row is known by its place within the record as well"
    );
    assert_eq!(cut.fates("facts"), fates(1, 0, 0, 0));
}
