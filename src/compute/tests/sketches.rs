//! Sketches: near the truth, and the same whatever the cuts.

use super::{declared, event};
use crate::{
    catalog::{Estimate, SketchKind},
    compute::sketch::{estimates, united},
};
use arrow::{
    array::{Array, AsArray, BinaryArray, RecordBatch},
    datatypes::{Float64Type, Int64Type, TimestampMicrosecondType},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// The only row's column.
fn bytes(delta: &RecordBatch, column: &str) -> Option<Vec<u8>> {
    let column = delta.column_by_name(column).expect(column).as_binary::<i32>();
    column.is_valid(0).then(|| column.value(0).to_vec())
}

fn read(sketch: &[u8], estimate: Estimate) -> f64 {
    let value = estimates(&BinaryArray::from(vec![sketch]), estimate).unwrap();
    match estimate {
        Estimate::Distinct => value.as_primitive::<Int64Type>().value(0) as f64,
        Estimate::Quantile(_) => value.as_primitive::<Float64Type>().value(0),
    }
}

const SHARES: [f64; 6] = [0.0, 0.01, 0.25, 0.5, 0.99, 1.0];

#[test]
fn however_a_stream_is_cut_the_estimates_are_those_of_the_whole() {
    let m = declared(&[
        "m AS SELECT 'all' AS scope, approx_distinct(big) AS d, approx_percentile(ratio, 0.5) AS p,
                     approx_distinct(txt) AS t FROM events GROUP BY scope",
    ]);
    for (seed, distinct, count) in [(1, 5, 40), (2, 200, 600), (3, 700, 1_500), (4, 9_000, 12_000)]
    {
        let mut random = StdRng::seed_from_u64(seed);
        let mut values = Vec::new();
        let mut known = std::collections::BTreeSet::new();
        let mut events: Vec<String> = (0..count)
            .map(|_| {
                let big = random.random_range(0..distinct) * 1_000_003i64;
                known.insert(big);
                // Some so far from the others that bins must be given up for them.
                let power = if random.random_bool(0.05) { 250 } else { 6 };
                let ratio =
                    random.random_range(-1.0..1.0) * 10f64.powi(random.random_range(-8..power));
                values.push(ratio);
                event(1, &format!("\"big\": {big}, \"txt\": \"v{big}\", \"ratio\": {ratio:e}"))
            })
            .collect();
        let whole = m.cut(&events).sealed.tables.remove(0).1.rows;
        events.shuffle(&mut random);
        let mut pieces = Vec::new();
        let mut rest = events.as_slice();
        while !rest.is_empty() {
            let (piece, after) =
                rest.split_at(random.random_range(1..=rest.len().min(count / 4 + 1)));
            pieces.push(m.cut(piece).sealed.tables.remove(0).1.rows);
            rest = after;
        }
        let unite = |column: &str, kind: SketchKind, random: &mut StdRng| {
            let mut sketches: Vec<_> = pieces.iter().filter_map(|p| bytes(p, column)).collect();
            // In any tree: the shorter side may be either one.
            while sketches.len() > 1 {
                let a = sketches.swap_remove(random.random_range(0..sketches.len()));
                let b = sketches.swap_remove(random.random_range(0..sketches.len()));
                sketches.push(united(kind, &a, &b).unwrap());
            }
            sketches.remove(0)
        };
        for column in ["_d_sketch", "_t_sketch"] {
            let parts = unite(column, SketchKind::Distinct, &mut random);
            let found = read(&parts, Estimate::Distinct);
            assert_eq!(found, read(&bytes(&whole, column).unwrap(), Estimate::Distinct));
            let truth = known.len() as f64;
            assert!((found - truth).abs() <= 0.05 * truth, "{found} of {truth}");
        }
        let parts = unite("_p_sketch", SketchKind::Quantiles, &mut random);
        values.sort_by(f64::total_cmp);
        for share in SHARES {
            let found = read(&parts, Estimate::Quantile(share));
            let all = bytes(&whole, "_p_sketch").unwrap();
            assert_eq!(found, read(&all, Estimate::Quantile(share)), "{share}");
            let truth = values[(share * (values.len() - 1) as f64) as usize];
            // With a span that fits the bins nothing is given up.
            let spread = values.iter().map(|v| v.abs()).fold(0.0, f64::max) < 1e8;
            assert!(
                !spread || (found - truth).abs() <= 0.0101 * truth.abs() + 1e-8,
                "{found} {truth}"
            );
        }
    }
}

#[test]
fn a_group_without_values_has_none_and_no_percentile() {
    let m = declared(&[
        "m AS SELECT k, approx_distinct(big) AS d, approx_percentile(ratio, 0.5) AS p FROM events GROUP BY k",
    ]);
    let cut = m.cut(&[event(1, "\"k\": \"a\"")]);
    assert_eq!(cut.rows(), ["a 0 NULL NULL NULL "]);
}

#[test]
fn a_window_of_panes_has_the_sketches_and_moments_of_its_events() {
    let m = declared(&[
        "hopped AS SELECT hop(interval '20 seconds', interval '60 seconds') AS w,
                          approx_distinct(big) AS d, approx_percentile(ratio, 0.5) AS p,
                          stddev_pop(ratio) AS s
         FROM events GROUP BY w",
        "whole AS SELECT 'all' AS scope, approx_distinct(big) AS d, approx_percentile(ratio, 0.5) AS p,
                         stddev_pop(ratio) AS s
         FROM events GROUP BY scope",
    ]);
    let mut random = StdRng::seed_from_u64(7);
    let events: Vec<(i64, String)> = (0..3_000)
        .map(|_| {
            let second = random.random_range(0..200);
            let big = random.random_range(0..600);
            let ratio = match random.random_bool(0.1) {
                true => "null".to_owned(),
                false => format!("{:?}", random.random_range(-40..40)),
            };
            (second, event(second, &format!("\"big\": {big}, \"ratio\": {ratio}")))
        })
        .collect();
    let all: Vec<String> = events.iter().map(|(_, event)| event.clone()).collect();
    let table = |sealed: &crate::compute::SealedTables, name: &str| {
        let found = sealed.tables.iter().find(|(model, _)| &**model == name);
        found.expect("the model's delta").1.rows.clone()
    };
    let hopped = table(&m.cut(&all).sealed, "hopped");
    let column = |of: &RecordBatch, name: &str| of.column_by_name(name).expect(name).clone();
    let starts = column(&hopped, "w_start");
    assert_eq!(starts.len(), 12, "from 40 seconds before the first event on");
    for row in 0..starts.len() {
        let start = starts.as_primitive::<TimestampMicrosecondType>().value(row) / 1_000_000;
        let held = events.iter().filter(|(at, _)| (start..start + 60).contains(at));
        let held: Vec<String> = held.map(|(_, event)| event.clone()).collect();
        let whole = table(&m.cut(&held).sealed, "whole");
        let one = hopped.slice(row, 1);
        for name in ["d", "p", "_s_moments_count"] {
            assert_eq!(column(&one, name).as_ref(), column(&whole, name).as_ref(), "{name}");
        }
        for name in ["_s_moments_mean", "_s_moments_m2"] {
            let value = |of| column(of, name).as_primitive::<Float64Type>().value(0);
            let (found, wanted) = (value(&one), value(&whole));
            assert!((found - wanted).abs() <= 1e-9 * wanted.abs().max(1.0), "{found} {wanted}");
        }
    }
}
