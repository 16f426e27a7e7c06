//! Refused records: what stood before them, and their lateness when they are taken after all.

use super::*;
use proptest::prelude::*;

const STRICT: &str = "strict WITH (late = 'drop') AS
    SELECT tumble(interval '10 seconds') AS window, count(*) AS n FROM events GROUP BY window";

proptest! {
    /// The oracle looks at every earlier record again: only those that were good raise anything.
    #[test]
    fn a_retried_record_is_judged_by_what_was_taken_before_its_place(
        events in prop::collection::vec((-100i64..100, any::<bool>()), 1..60),
        borders in prop::collection::vec(0usize..60, 0..6),
        first in prop::option::of(-50i64..50),
    ) {
        let declared = declared(&[STRICT]);
        let output = Output::Model("strict".into());
        let texts: Vec<String> = events
            .iter()
            .map(|(second, broken)| if *broken { "{".to_owned() } else { event(*second, "") })
            .collect();
        let records = records(&texts);
        let before = |index: usize| {
            let good = events[..index].iter().filter(|(_, broken)| !broken).map(|(s, _)| *s);
            first.into_iter().chain(good).max()
        };

        let mut tables = declared.tables();
        let mark = mark(0, first.map(|second| second * 1_000_000));
        tables.adopt(&[(Output::DeadLetters, Partition(0), mark), (output.clone(), Partition(0), mark)], &[]);
        let mut cuts: Vec<usize> = borders.into_iter().map(|b| b.min(events.len())).collect();
        cuts.extend([0, events.len()]);
        cuts.sort_unstable();
        let mut refused = Vec::new();
        for pair in cuts.windows(2) {
            let batch = &records[pair[0]..pair[1]];
            let decoded = declared.decode(batch);
            let from = [(Partition(0), Offset(pair[0] as i64))];
            for refusal in tables.admit(batch, &decoded, &from, &[]).expect("admitted") {
                let index = pair[0] + refusal.record;
                let seen = before(index).map(|second| EventTime(second * 1_000_000));
                prop_assert_eq!(
                    refusal.refused_by,
                    vec![(Output::DeadLetters, seen), (output.clone(), seen)]
                );
                refused.push((index, seen));
            }
        }
        let broken = events.iter().filter(|(_, broken)| *broken).count();
        prop_assert_eq!(refused.len(), broken);
        let watermark = tables.seal().expect("sealed").counts[&(output.clone(), Partition(0))];

        let mended: Vec<String> = refused.iter().map(|(index, _)| event(events[*index].0, "")).collect();
        let retried: Vec<RawRecord<'_>> = refused
            .iter()
            .zip(&mended)
            .map(|((index, _), text)| record(0, *index as i64, text))
            .collect();
        let seen: Vec<_> = refused.iter().map(|(_, seen)| *seen).collect();
        tables.admit_retried(&declared.decode(&retried), &seen, &[]).expect("admitted");
        let counted = tables.seal().expect("sealed").counts[&(output, Partition(0))];
        let late = refused.iter().filter(|(index, _)| {
            let end = events[*index].0.div_euclid(10) * 10 + 10;
            before(*index).is_some_and(|max| end <= max - 10)
        });
        let late = late.count() as u64;
        prop_assert_eq!(counted.fates, fates(broken as u64 - late, 0, late, 0));
        prop_assert_eq!(counted.event_time_max, watermark.event_time_max, "nothing is raised");
    }
}

#[test]
fn what_a_model_refuses_says_what_that_model_had_seen() {
    let declared = declared(&[
        "numbers AS SELECT CAST(txt AS bigint) AS number, count(*) AS n FROM events GROUP BY CAST(txt AS bigint)",
    ]);
    let output = Output::Model("numbers".into());
    let mut tables = declared.tables();
    // The model is behind: the dead letters have passed the first three.
    let (ahead, behind) = (mark(3, Some(9_000_000)), mark(1, None));
    tables.adopt(
        &[(Output::DeadLetters, Partition(0), ahead), (output.clone(), Partition(0), behind)],
        &[],
    );
    let texts = [
        event(50, "\"txt\": \"1\""),
        event(5, "\"txt\": \"1\""),
        "{".to_owned(),
        event(3, "\"txt\": \"x\""),
        "{".to_owned(),
    ];
    let records = records(&texts);
    let from = [(Partition(0), Offset(0))];
    let refusals =
        tables.admit(&records, &declared.decode(&records), &from, &[]).expect("admitted");
    let found: Vec<_> = refusals.into_iter().map(|r| (r.record, r.refused_by)).collect();
    let (five, nine) = (Some(EventTime(5_000_000)), Some(EventTime(9_000_000)));
    assert_eq!(
        found,
        [
            (2, vec![(output.clone(), five)]),
            (4, vec![(Output::DeadLetters, nine), (output.clone(), five)]),
            (3, vec![(output, five)]),
        ]
    );
}
