//! M-1, M-2, M-3 against an oracle that takes one event at a time and remembers all of them.
//!
//! The streams have disorder, ties, gaps in their offsets, NULLs, rejects and records on which an
//! expression fails; outputs start at marks of their own; batches, cuts, overlaps and abandoned
//! cuts fall anywhere, and so do duplicates and advances of event time that no record says (E-4): some stand recorded,
//! some are made on the way, and those that change nothing any more are forgotten.
//!
//! Mutants it has caught: a late record that does not raise the watermark; a floor one too high;
//! FILTER forgotten; an argument computed where its FILTER is not true; the earliest row of a key
//! kept; open rows kept by `abandon`; an advance at an offset that counts only behind its record;
//! lateness judged before WHERE; overflow that wraps; a duplicate that raises no watermark, and one
//! that WHERE filters;
//! the first window still open left out of those that take a late event.

use super::{
    Declared, Value, declared, instant, mark,
    merged::{Merged, add, less},
    record,
};
use crate::{
    catalog::{Late, ModelKind, Pick},
    decode::{Decoder, RejectClass},
    record::{EventTime, Fates, IdleAdvance, Mark, Offset, Output, Partition, RawRecord},
};
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

const SECOND: i64 = 1_000_000;
const DISORDER: i64 = 10 * SECOND;

#[derive(Debug, Clone)]
struct Event {
    /// None: not JSON.
    at: Option<i64>,
    k: Option<&'static str>,
    txt: Option<&'static str>,
    small: Option<i16>,
    n: Option<i32>,
    big: Option<i64>,
    /// In hundredths.
    amount: Option<i64>,
    /// In quarters, whose sums are exact in any order.
    quarters: Option<i32>,
    /// The judge of a topic with `unique` says so.
    duplicate: bool,
}

/// No column is of this name.
const DUPLICATE: &str = "\"duplicate\":1";

impl Event {
    fn json(&self) -> String {
        let Some(at) = self.at else { return "{".to_owned() };
        let mut out = format!("{{\"at\":\"{}\"", instant(at));
        let mut member = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                out += &format!(",\"{name}\":{value}");
            }
        };
        member("k", self.k.map(|v| format!("\"{v}\"")));
        member("txt", self.txt.map(|v| format!("\"{v}\"")));
        member("small", self.small.map(|v| v.to_string()));
        member("n", self.n.map(|v| v.to_string()));
        member("big", self.big.map(|v| v.to_string()));
        member(
            "amount",
            self.amount.map(|v| {
                format!("{}{}.{:02}", if v < 0 { "-" } else { "" }, v.abs() / 100, v.abs() % 100)
            }),
        );
        member("ratio", self.quarters.map(|v| format!("{:?}", f64::from(v) / 4.0)));
        match self.duplicate {
            true => format!("{out},{DUPLICATE}}}"),
            false => out + "}",
        }
    }
}

/// The expression fails on this event.
#[derive(Debug)]
struct Fails;

type Eval = fn(&Event) -> Result<Value, Fails>;

enum Function {
    Count,
    Sum,
    Min,
    Max,
    /// Counts each value once.
    Distinct,
    /// The value in one row: of those for which the condition holds, and the second value is there.
    Pick(Pick, fn(&Event) -> bool, Option<Eval>),
}

impl Function {
    fn width(&self) -> usize {
        match self {
            Self::Count | Self::Sum | Self::Min | Self::Max | Self::Distinct => 1,
            Self::Pick(_, _, by) => 4 + usize::from(by.is_some()),
        }
    }
}

#[derive(Clone, Copy)]
enum SaidWindow {
    /// Of this size, beginning at multiples of it and, before 1972, this much later.
    Tumble(i64, i64),
    /// One as often as the first, of the size of the second.
    Hop(i64, i64),
    /// Of this gap. What it is of one event decides whether that is late; the rest is known when
    /// all are.
    Session(i64),
}

impl SaidWindow {
    /// All that hold an event, ascending.
    fn of(self, at: i64) -> Vec<(i64, i64)> {
        match self {
            Self::Tumble(size, later) => {
                let later = if at < 63_072_000 * SECOND { later } else { 0 };
                let start = (at - later).div_euclid(size) * size + later;
                vec![(start, start + size)]
            }
            Self::Hop(slide, size) => {
                let last = at.div_euclid(slide) * slide;
                let starts = (0..=size / slide).rev().map(|back| last - back * slide);
                starts.map(|start| (start, start + size)).filter(|(_, end)| at < *end).collect()
            }
            Self::Session(gap) => vec![(at, at + gap)],
        }
    }
}

/// A model, said in Rust.
struct Said {
    statement: &'static str,
    /// Its windows, allowed lateness, what becomes of late events.
    window: Option<(SaidWindow, i64, Late)>,
    /// Whether WHERE is true.
    filter: fn(&Event) -> Result<bool, Fails>,
    /// Keys, or the columns of a row; with `primary_key`, indexes in them.
    columns: &'static [Eval],
    primary_key: Option<&'static [usize]>,
    /// NULL where FILTER leaves the event out, as every part but `Pick` ignores NULL.
    parts: &'static [(Function, Eval)],
}

const PLAIN: Said = Said {
    statement: "",
    window: None,
    filter: |_| Ok(true),
    columns: &[],
    primary_key: None,
    parts: &[],
};

fn int<T: Into<i128>>(value: Option<T>) -> Result<Value, Fails> {
    Ok(value.map_or(Value::Null, |v| Value::Int(v.into())))
}

fn text(value: Option<&str>) -> Result<Value, Fails> {
    Ok(value.map_or(Value::Null, |v| Value::Text(v.to_owned())))
}

fn ratio(e: &Event) -> Result<Value, Fails> {
    Ok(e.quarters.map_or(Value::Null, |v| Value::Double((f64::from(v) / 4.0).to_bits())))
}

fn one(_: &Event) -> Result<Value, Fails> {
    Ok(Value::Int(1))
}

/// Of two values that are there; None of the operation: it fails.
fn both<A: Copy, B: Copy, C: Into<i128>>(
    a: Option<A>,
    b: Option<B>,
    operation: fn(A, B) -> Option<C>,
) -> Result<Value, Fails> {
    match (a, b) {
        (Some(a), Some(b)) => operation(a, b).map(|v| Value::Int(v.into())).ok_or(Fails),
        _ => Ok(Value::Null),
    }
}

fn big_over_small(e: &Event) -> Result<Value, Fails> {
    both(e.big, e.small, |a, b| a.checked_div(i64::from(b)))
}

/// In order of name, as the catalog has them.
const SAID: &[Said] = &[
    Said {
        statement: "amended WITH (allowed_lateness = '5 seconds') AS
            SELECT min(txt) AS txt_min, tumble(interval '1 minute') AS w, max(txt) AS txt_max,
                   sum(amount) AS amount, sum(ratio) AS ratio, min(ratio) AS ratio_min,
                   max(amount) AS amount_max, sum(big) FILTER (WHERE small > 0) AS big_small,
                   min(at) AS first
            FROM events WHERE k IS DISTINCT FROM 'b' GROUP BY w",
        window: Some((SaidWindow::Tumble(60 * SECOND, 0), 5 * SECOND, Late::Amend)),
        filter: |e| Ok(e.k != Some("b")),
        parts: &[
            (Function::Min, |e| text(e.txt)),
            (Function::Max, |e| text(e.txt)),
            (Function::Sum, |e| int(e.amount)),
            (Function::Sum, ratio),
            (Function::Min, ratio),
            (Function::Max, |e| int(e.amount)),
            (Function::Sum, |e| int(e.big.filter(|_| e.small > Some(0)))),
            (Function::Min, |e| int(e.at)),
        ],
        ..PLAIN
    },
    Said {
        statement: "chosen AS
            SELECT n % 2 AS r, tumble(interval '30 seconds') AS w,
                   count(DISTINCT txt) AS texts, first_value(txt) AS first_txt,
                   last_value(big) FILTER (WHERE n > 0) AS last_big,
                   arg_max(k, amount) AS k_of_most, arg_min(n, ratio) AS n_of_least,
                   arg_max(at, txt) AS at_of_last, bool_and(n > 0) AS all_positive,
                   bool_or(small > 1) AS some_large,
                   count(DISTINCT n) FILTER (WHERE big > 0) * 2 AS twice
            FROM events WHERE k <> 'b' GROUP BY r, w",
        window: Some((SaidWindow::Tumble(30 * SECOND, 0), 0, Late::Amend)),
        filter: |e| Ok(e.k.is_some_and(|k| k != "b")),
        columns: &[|e| int(e.n.map(|n| n % 2))],
        parts: &[
            (Function::Distinct, |e| text(e.txt)),
            (Function::Pick(Pick::First, |_| true, None), |e| text(e.txt)),
            (Function::Pick(Pick::Last, |e| e.n > Some(0), None), |e| int(e.big)),
            (Function::Pick(Pick::GreatestBy, |_| true, Some(|e| int(e.amount))), |e| text(e.k)),
            (Function::Pick(Pick::LeastBy, |_| true, Some(ratio)), |e| int(e.n)),
            (Function::Pick(Pick::GreatestBy, |_| true, Some(|e| text(e.txt))), |e| int(e.at)),
            (Function::Min, |e| Ok(e.n.map_or(Value::Null, |n| Value::Bool(n > 0)))),
            (Function::Max, |e| Ok(e.small.map_or(Value::Null, |s| Value::Bool(s > 1)))),
            (Function::Distinct, |e| int(e.n.filter(|_| e.big > Some(0)))),
        ],
        ..PLAIN
    },
    Said {
        statement: "dropped WITH (allowed_lateness = '3 seconds', late = 'drop') AS
            SELECT k, tumble(interval '10 seconds') AS window, count(*) AS rows, count(big) AS bigs,
                   sum(big) AS big, min(big) AS big_min, max(big) AS big_max,
                   avg(amount) AS amount_avg, sum(n) AS n,
                   count(*) FILTER (WHERE n > 0) AS positive
            FROM events WHERE txt <> 'x' GROUP BY window, k",
        window: Some((SaidWindow::Tumble(10 * SECOND, 0), 3 * SECOND, Late::Drop)),
        filter: |e| Ok(e.txt.is_some_and(|txt| txt != "x")),
        columns: &[|e| text(e.k)],
        parts: &[
            (Function::Count, one),
            (Function::Count, |e| int(e.big)),
            (Function::Sum, |e| int(e.big)),
            (Function::Min, |e| int(e.big)),
            (Function::Max, |e| int(e.big)),
            (Function::Sum, |e| int(e.n)),
            (Function::Count, |e| int(e.n.filter(|n| *n > 0))),
            (Function::Sum, |e| int(e.amount)),
            (Function::Count, |e| int(e.amount)),
        ],
        ..PLAIN
    },
    Said {
        statement: "ever AS
            SELECT k, n % 3 AS r, sum(n * n) AS squares, max(at) AS last, avg(ratio) AS ratio,
                   min(small) AS small_min, sum(big / small) FILTER (WHERE small <> 0) AS quotients
            FROM events WHERE small <> 0 AND 10 / small >= 0 OR n > 0 GROUP BY k, r",
        filter: |e| match (e.small, e.n) {
            (Some(small), n) if small != 0 => Ok(10 / small >= 0 || n > Some(0)),
            (_, n) => Ok(n > Some(0)),
        },
        columns: &[|e| text(e.k), |e| int(e.n.map(|n| n % 3))],
        parts: &[
            (Function::Sum, |e| both(e.n, e.n, i32::checked_mul)),
            (Function::Max, |e| int(e.at)),
            (Function::Min, |e| int(e.small)),
            (
                Function::Sum,
                |e| if e.small == Some(0) { Ok(Value::Null) } else { big_over_small(e) },
            ),
            (Function::Sum, ratio),
            (Function::Count, |e| int(e.quarters)),
        ],
        ..PLAIN
    },
    Said {
        statement: "failing AS
            SELECT CAST(txt AS bigint) AS number, count(*) AS rows, sum(big / small) AS quotients
            FROM events WHERE 10 / n >= 0 GROUP BY number",
        filter: |e| match e.n {
            Some(0) => Err(Fails),
            n => Ok(n.is_some_and(|n| 10 / n >= 0)),
        },
        columns: &[|e| match e.txt {
            Some(txt) => txt.parse::<i64>().map(|v| Value::Int(v.into())).map_err(|_| Fails),
            None => Ok(Value::Null),
        }],
        parts: &[(Function::Count, one), (Function::Sum, big_over_small)],
        ..PLAIN
    },
    Said {
        statement: "hopped WITH (allowed_lateness = '2 seconds', late = 'drop') AS
            SELECT hop(interval '4 seconds', interval '18 seconds') AS window, k, count(*) AS rows,
                   sum(big) AS big, min(txt) AS txt_min, max(ratio) AS ratio_max, avg(amount) AS amount,
                   count(DISTINCT txt) AS texts, last_value(small) FILTER (WHERE n > 0) AS last_small,
                   arg_max(big, amount) AS big_of_most, bool_and(n > 1) AS all_large
            FROM events WHERE n > 0 OR small > 0 GROUP BY window, k",
        window: Some((SaidWindow::Hop(4 * SECOND, 18 * SECOND), 2 * SECOND, Late::Drop)),
        filter: |e| Ok(e.n > Some(0) || e.small > Some(0)),
        columns: &[|e| text(e.k)],
        parts: &[
            (Function::Count, one),
            (Function::Sum, |e| int(e.big)),
            (Function::Min, |e| text(e.txt)),
            (Function::Max, ratio),
            (Function::Distinct, |e| text(e.txt)),
            (Function::Pick(Pick::Last, |e| e.n > Some(0), None), |e| int(e.small)),
            (Function::Pick(Pick::GreatestBy, |_| true, Some(|e| int(e.amount))), |e| int(e.big)),
            (Function::Min, |e| Ok(e.n.map_or(Value::Null, |n| Value::Bool(n > 1)))),
            (Function::Sum, |e| int(e.amount)),
            (Function::Count, |e| int(e.amount)),
        ],
        ..PLAIN
    },
    Said {
        statement: "hopped_amended AS
            SELECT hop(interval '10 seconds', interval '30 seconds') AS window, sum(n) AS n,
                   first_value(txt) AS first_txt, arg_min(at, ratio) AS at_of_least,
                   count(DISTINCT n) FILTER (WHERE big > 0) AS numbers,
                   bool_or(small > 1) AS some_large, count(DISTINCT k) AS ks
            FROM events GROUP BY window",
        window: Some((SaidWindow::Hop(10 * SECOND, 30 * SECOND), 0, Late::Amend)),
        parts: &[
            (Function::Sum, |e| int(e.n)),
            (Function::Pick(Pick::First, |_| true, None), |e| text(e.txt)),
            (Function::Pick(Pick::LeastBy, |_| true, Some(ratio)), |e| int(e.at)),
            (Function::Distinct, |e| int(e.n.filter(|_| e.big > Some(0)))),
            (Function::Max, |e| Ok(e.small.map_or(Value::Null, |s| Value::Bool(s > 1)))),
            (Function::Distinct, |e| text(e.k)),
        ],
        ..PLAIN
    },
    Said {
        statement: "latest WITH (primary_key = 'n, k') AS
            SELECT k, txt, -big AS negative, n, CAST(amount AS integer) AS narrow FROM events
            WHERE n < 3",
        filter: |e| Ok(e.n.is_some_and(|n| n < 3)),
        columns: &[
            |e| text(e.k),
            |e| text(e.txt),
            |e| both(e.big, Some(()), |big, ()| big.checked_neg()),
            |e| int(e.n),
            |e| both(e.amount, Some(()), |amount, ()| i32::try_from(amount / 100).ok()),
        ],
        primary_key: Some(&[3, 0]),
        ..PLAIN
    },
    Said {
        statement: "logged AS
            SELECT k, big + n AS total, small AS small_one, at AS happened FROM events",
        columns: &[
            |e| text(e.k),
            |e| both(e.big, e.n, |a, b| a.checked_add(i64::from(b))),
            |e| int(e.small),
            |e| int(e.at),
        ],
        primary_key: Some(&[]),
        ..PLAIN
    },
    Said {
        statement: "nobody WITH (late = 'drop') AS
            SELECT tumble(interval '10 seconds') AS window, count(*) AS rows
            FROM events WHERE k = 'nobody' GROUP BY window",
        window: Some((SaidWindow::Tumble(10 * SECOND, 0), 0, Late::Drop)),
        filter: |_| Ok(false),
        parts: &[(Function::Count, one)],
        ..PLAIN
    },
    Said {
        statement: "refused WITH (allowed_lateness = '2 seconds', late = 'dead-letter') AS
            SELECT hop(interval '5 seconds', interval '15 seconds') AS window, count(*) AS rows,
                   sum(big / small) AS q
            FROM events WHERE k <> 'b' GROUP BY window",
        window: Some((SaidWindow::Hop(5 * SECOND, 15 * SECOND), 2 * SECOND, Late::DeadLetter)),
        filter: |e| Ok(e.k.is_some_and(|k| k != "b")),
        parts: &[(Function::Count, one), (Function::Sum, big_over_small)],
        ..PLAIN
    },
    Said {
        statement: "session WITH (allowed_lateness = '5 seconds', late = 'drop') AS
            SELECT session(interval '7 seconds') AS s, k, count(*) AS rows, sum(big) AS big,
                   min(txt) AS txt_min, max(at) AS last, avg(amount) AS amount,
                   count(*) FILTER (WHERE n > 0) AS positive,
                   last_value(n) - first_value(n) AS grew, arg_min(txt, amount) AS txt_of_least,
                   arg_max(big, ratio) FILTER (WHERE small > 0) AS big_of_most,
                   bool_or(n > 1) AS some_large, bool_and(big > 0) AS all_positive
            FROM events WHERE n <> 5 GROUP BY s, k",
        window: Some((SaidWindow::Session(7 * SECOND), 5 * SECOND, Late::Drop)),
        filter: |e| Ok(e.n.is_some_and(|n| n != 5)),
        columns: &[|e| text(e.k)],
        parts: &[
            (Function::Count, one),
            (Function::Sum, |e| int(e.big)),
            (Function::Min, |e| text(e.txt)),
            (Function::Max, |e| int(e.at)),
            (Function::Count, |e| int(e.n.filter(|n| *n > 0))),
            (Function::Pick(Pick::LeastBy, |_| true, Some(|e| int(e.amount))), |e| text(e.txt)),
            (Function::Pick(Pick::GreatestBy, |e| e.small > Some(0), Some(ratio)), |e| int(e.big)),
            (Function::Max, |e| Ok(e.n.map_or(Value::Null, |n| Value::Bool(n > 1)))),
            (Function::Min, |e| Ok(e.big.map_or(Value::Null, |big| Value::Bool(big > 0)))),
            (Function::Sum, |e| int(e.amount)),
            (Function::Count, |e| int(e.amount)),
            (Function::Pick(Pick::Last, |_| true, None), |e| int(e.n)),
            (Function::Pick(Pick::First, |_| true, None), |e| int(e.n)),
        ],
        ..PLAIN
    },
    Said {
        statement: "session_of_all AS
            SELECT session(interval '1 second') AS window, sum(n) AS n, max(ratio) AS ratio,
                   first_value(k) AS first_k, last_value(txt) AS last_txt
            FROM events GROUP BY window",
        window: Some((SaidWindow::Session(SECOND), 0, Late::Amend)),
        parts: &[
            (Function::Sum, |e| int(e.n)),
            (Function::Max, ratio),
            (Function::Pick(Pick::First, |_| true, None), |e| text(e.k)),
            (Function::Pick(Pick::Last, |_| true, None), |e| text(e.txt)),
        ],
        ..PLAIN
    },
    Said {
        // Liberia was 44 minutes and 30 seconds behind until 1972.
        statement: "zoned WITH (late = 'drop') AS
            SELECT tumble(interval '1 minute', 'Africa/Monrovia') AS window, k, sum(n) AS n
            FROM events GROUP BY window, k",
        window: Some((SaidWindow::Tumble(60 * SECOND, 30 * SECOND), 0, Late::Drop)),
        columns: &[|e| text(e.k)],
        parts: &[(Function::Sum, |e| int(e.n))],
        ..PLAIN
    },
];

static DECLARED: LazyLock<Declared> =
    LazyLock::new(|| declared(&SAID.iter().map(|said| said.statement).collect::<Vec<_>>()));

type Place = (Output, Partition);
/// Each with the highest event time that the output had seen before it.
type Refused = (Partition, i64, Output, RejectClass, Option<EventTime>);

/// What is committed after everything.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    tables: BTreeMap<Arc<str>, Merged>,
    fates: BTreeMap<Place, Fates>,
    event_time_max: BTreeMap<Place, Option<EventTime>>,
    late: BTreeMap<Arc<str>, u64>,
    /// In order.
    refusals: Vec<Refused>,
}

/// Records of one partition: (offset, event), ascending.
type Log = Vec<(i64, Event)>;

/// An event that a model takes: its place by time, partition and offset, and an argument for each
/// part.
type Taken<'e> = ((i64, Partition, i64), &'e Event, Vec<Value>);

fn oracle(logs: &[Log], marks: &BTreeMap<Place, Mark>, advances: &[IdleAdvance]) -> Outcome {
    let mut out = Outcome::default();
    // Of models of sessions: the events of each key.
    let mut of_sessions: BTreeMap<(usize, Vec<Value>), Vec<Taken<'_>>> = BTreeMap::new();
    for ((output, partition), mark) in marks {
        let mut seen: Vec<i64> = mark.event_time_max.iter().map(|t| t.0).collect();
        let advanced = |to: i64| {
            let below = advances.iter().filter(|a| a.partition == *partition && a.before.0 <= to);
            below.map(|a| a.event_time.0).max()
        };
        let mut fates = Fates::default();
        let said = DECLARED.models.iter().position(|m| Output::Model(m.name.clone()) == *output);
        for (offset, event) in &logs[partition.0 as usize] {
            if *offset < mark.next.0 {
                continue;
            }
            let highest = seen.iter().copied().chain(advanced(*offset)).max();
            let mut refuse = |class| {
                let before = highest.map(EventTime);
                out.refusals.push((*partition, *offset, output.clone(), class, before));
            };
            let Some(at) = event.at else {
                fates.dead += 1;
                refuse(RejectClass::Malformed);
                continue;
            };
            seen.push(at);
            if event.duplicate {
                fates.duplicate += 1;
                continue;
            }
            let Some(index) = said else {
                fates.filtered += 1;
                continue;
            };
            let (said, model) = (&SAID[index], &DECLARED.models[index]);
            match (said.filter)(event) {
                Ok(true) => {}
                Ok(false) => {
                    fates.filtered += 1;
                    continue;
                }
                Err(Fails) => {
                    fates.dead += 1;
                    refuse(RejectClass::Model);
                    continue;
                }
            }
            let mut windows = vec![None];
            if let Some((window, allowed, late)) = said.window {
                let all = window.of(at);
                let mut open = all.clone();
                open.retain(|(_, end)| highest.is_none_or(|most| end + allowed + DISORDER > most));
                if open.len() < all.len() {
                    *out.late.entry(model.name.clone()).or_default() += 1;
                }
                let kept = if late == Late::Amend { all } else { open };
                windows = kept.into_iter().map(Some).collect();
                if windows.is_empty() {
                    if late == Late::Drop {
                        fates.late += 1;
                    } else {
                        fates.dead += 1;
                        refuse(RejectClass::Late);
                    }
                    continue;
                }
            }
            let columns: Result<Vec<_>, _> = said.columns.iter().map(|c| c(event)).collect();
            let parts: Result<Vec<_>, _> = said.parts.iter().map(|(_, arg)| arg(event)).collect();
            let (Ok(columns), Ok(parts)) = (columns, parts) else {
                fates.dead += 1;
                refuse(RejectClass::Model);
                continue;
            };
            fates.accepted += 1;
            if let Some((SaidWindow::Session(_), ..)) = said.window {
                of_sessions.entry((index, columns)).or_default().push((
                    (at, *partition, *offset),
                    event,
                    parts,
                ));
                continue;
            }
            let table = out.tables.entry(model.name.clone()).or_default();
            match said.primary_key {
                None => {
                    let place = (at, *partition, *offset);
                    for window in windows {
                        group(said, table, event, place, window, &columns, &parts);
                    }
                }
                Some(key) => keep(table, key, columns, (at, *partition, *offset)),
            }
        }
        out.fates.insert((output.clone(), *partition), fates);
        let end = logs[partition.0 as usize].last().map_or(0, |(offset, _)| offset + 1);
        let reached = advanced(end.max(mark.next.0));
        let highest = seen.into_iter().chain(reached).max().map(EventTime);
        out.event_time_max.insert((output.clone(), *partition), highest);
    }
    for ((index, columns), mut events) in of_sessions {
        let said = &SAID[index];
        let Some((SaidWindow::Session(gap), ..)) = said.window else { unreachable!() };
        let table = out.tables.entry(DECLARED.models[index].name.clone()).or_default();
        events.sort_by_key(|(place, ..)| place.0);
        for session in events.chunk_by(|((a, ..), ..), ((b, ..), ..)| b - a <= gap) {
            let window = (session[0].0.0, session[session.len() - 1].0.0 + gap);
            for (place, event, parts) in session {
                group(said, table, event, *place, Some(window), &columns, parts);
            }
        }
    }
    out.refusals.sort_by_key(sort_key);
    out
}

fn sort_key(refusal: &Refused) -> (Partition, i64, Output) {
    (refusal.0, refusal.1, refusal.2.clone())
}

/// The row is window start, keys, window end, parts; `in_table_order` puts them right.
fn group(
    said: &Said,
    table: &mut Merged,
    event: &Event,
    (at, partition, offset): (i64, Partition, i64),
    window: Option<(i64, i64)>,
    columns: &[Value],
    parts: &[Value],
) {
    let bounds = window.map(|(start, end)| (Value::Int(start.into()), Value::Int(end.into())));
    let key: Vec<Value> = bounds.iter().map(|(start, _)| start).chain(columns).cloned().collect();
    let fresh = || {
        let ends = bounds.iter().map(|(_, end)| end.clone());
        let zero = |(function, _): &(Function, Eval)| match function {
            Function::Count | Function::Distinct => vec![Value::Int(0)],
            _ => vec![Value::Null; function.width()],
        };
        key.iter().cloned().chain(ends).chain(said.parts.iter().flat_map(zero)).collect()
    };
    let row: &mut Vec<Value> = table.0.entry(key.clone()).or_insert_with(fresh);
    let mut place = row.len() - said.parts.iter().map(|(f, _)| f.width()).sum::<usize>();
    let mut set = 0;
    for ((function, _), new) in said.parts.iter().zip(parts) {
        let new = new.clone();
        let stored = &mut row[place..place + function.width()];
        place += function.width();
        let here = [i128::from(at), partition.0.into(), offset.into()].map(Value::Int);
        match function {
            Function::Pick(pick, condition, by) => {
                let by = by.map(|by| by(event).expect("a value that cannot fail"));
                if condition(event) && by != Some(Value::Null) && chooses(*pick, stored, &by, &here)
                {
                    let values = std::iter::once(new).chain(by).chain(here);
                    stored.iter_mut().zip(values).for_each(|(stored, value)| *stored = value);
                }
            }
            Function::Distinct => {
                let pair = key.iter().chain([&new]).cloned().collect();
                if new != Value::Null && table.1.insert((set, pair)) {
                    stored[0] = add(&stored[0], &Value::Int(1));
                }
                set += 1;
            }
            _ if new == Value::Null => {}
            Function::Count => stored[0] = add(&stored[0], &Value::Int(1)),
            _ if stored[0] == Value::Null => stored[0] = new,
            Function::Sum => stored[0] = add(&stored[0], &new),
            Function::Min if less(&new, &stored[0]) => stored[0] = new,
            Function::Max if less(&stored[0], &new) => stored[0] = new,
            Function::Min | Function::Max => {}
        }
    }
}

fn chooses(pick: Pick, stored: &[Value], by: &Option<Value>, place: &[Value; 3]) -> bool {
    let known = &stored[stored.len() - 3..];
    if known[0] == Value::Null {
        return true;
    }
    let nearer = match pick {
        Pick::Last => place.as_slice() > known,
        Pick::First | Pick::LeastBy | Pick::GreatestBy => place.as_slice() < known,
    };
    match (pick, by) {
        (Pick::LeastBy, Some(by)) => less(by, &stored[1]) || !less(&stored[1], by) && nearer,
        (Pick::GreatestBy, Some(by)) => less(&stored[1], by) || !less(by, &stored[1]) && nearer,
        _ => nearer,
    }
}

fn keep(
    table: &mut Merged,
    primary_key: &[usize],
    mut row: Vec<Value>,
    (at, partition, offset): (i64, Partition, i64),
) {
    let place = [i128::from(at), partition.0.into(), offset.into()].map(Value::Int);
    let key = match primary_key {
        [] => place[1..].to_vec(),
        indexes => indexes.iter().map(|i| row[*i].clone()).collect(),
    };
    row.extend(place);
    let stored = table.0.entry(key).or_insert_with(|| row.clone());
    if row[row.len() - 3..] > stored[row.len() - 3..] {
        *stored = row;
    }
}

/// Columns of the table as (role, name), put into the oracle's order.
fn in_oracle_order(model: &crate::catalog::Model, merged: &Merged) -> Merged {
    use crate::catalog::Role;
    let ModelKind::Aggregate(aggregate) = &model.kind else { return merged.clone() };
    let columns: Vec<_> = model.columns.iter().filter(|c| c.role.travels()).collect();
    let of = |role: Role| columns.iter().position(|c| c.role == role);
    let named = |name: &str| columns.iter().position(|c| c.name == name).expect("a column");
    let order: Vec<usize> = of(Role::WindowStart)
        .into_iter()
        .chain(aggregate.keys.iter().map(|k| named(&k.name)))
        .chain(of(Role::WindowEnd))
        .chain(aggregate.parts.iter().flat_map(|p| &p.columns).map(|c| named(&c.name)))
        .collect();
    let ordered = |row: &Vec<Value>| order.iter().map(|i| row[*i].clone()).collect();
    let rows = merged.0.iter().map(|(key, row)| (key.clone(), ordered(row)));
    Merged(rows.collect(), merged.1.clone())
}

#[derive(Debug, Clone)]
enum Step {
    /// Runs of (partition, records), and how many records below the lane's position come along.
    Read(Vec<(usize, usize)>, usize),
    Seal,
    /// The cut fails; everything goes back to the marks.
    Abandon,
    /// Nothing is left to read of a partition, and its event time comes to this.
    Idle(usize, i64),
}

/// The lane: reads, cuts, commits, fails.
struct Lane<'l> {
    logs: &'l [Vec<(i64, String)>],
    tables: super::Tables,
    decoder: Decoder,
    marks: BTreeMap<Place, Mark>,
    /// Per partition, index of the next record.
    next: Vec<usize>,
    open: Vec<Refused>,
    committed: Outcome,
    /// Recorded, without what is obsolete.
    advances: Vec<IdleAdvance>,
    /// Of the open cut.
    advancing: Vec<IdleAdvance>,
    /// All that ever were recorded.
    recorded: Vec<IdleAdvance>,
}

impl<'l> Lane<'l> {
    fn new(
        logs: &'l [Vec<(i64, String)>],
        marks: BTreeMap<Place, Mark>,
        advances: Vec<IdleAdvance>,
    ) -> Self {
        let mut lane = Self {
            logs,
            tables: DECLARED.tables(),
            decoder: Decoder::new(DECLARED.topic.clone(), None),
            marks,
            next: Vec::new(),
            open: Vec::new(),
            committed: Outcome::default(),
            recorded: advances.clone(),
            advances,
            advancing: Vec::new(),
        };
        lane.adopt();
        lane
    }

    fn adopt(&mut self) {
        let marks: Vec<_> = self.marks.iter().map(|((o, p), m)| (o.clone(), *p, *m)).collect();
        self.advances.sort_by_key(|a| (a.partition, a.before));
        self.tables.adopt(&marks, &self.advances);
        let position = |p: usize| {
            let marks = marks.iter().filter(|(_, partition, _)| partition.0 as usize == p);
            let lowest = marks.map(|(_, _, mark)| mark.next.0).min().expect("a mark");
            self.logs[p].partition_point(|(offset, ..)| *offset < lowest)
        };
        self.next = (0..self.logs.len()).map(position).collect();
    }

    fn offset(&self, p: usize) -> Offset {
        match self.logs[p].get(self.next[p]) {
            Some((offset, ..)) => Offset(*offset),
            None => Offset(self.logs[p].last().map_or(0, |(offset, ..)| offset + 1)),
        }
    }

    fn read(&mut self, runs: &[(usize, usize)], overlap: usize) {
        let from: Vec<_> =
            (0..self.logs.len()).map(|p| (Partition(p as i32), self.offset(p))).collect();
        let mut records: Vec<RawRecord<'_>> = Vec::new();
        let mut overlapped = vec![false; self.logs.len()];
        for &(p, count) in runs {
            let p = p % self.logs.len();
            let below = if std::mem::replace(&mut overlapped[p], true) { 0 } else { overlap };
            let start = self.next[p].saturating_sub(below);
            let end = (self.next[p] + count).min(self.logs[p].len());
            let run = &self.logs[p][start..end];
            records.extend(run.iter().map(|(offset, text)| record(p as i32, *offset, text)));
            self.next[p] = end;
        }
        let decoded = self.decoder.decode(&records);
        let rejected = |index| decoded.rejects.iter().any(|reject| reject.record == index);
        let good = records.iter().enumerate().filter(|(index, _)| !rejected(*index));
        let text = |record: &RawRecord<'_>| String::from_utf8(record.value.unwrap().to_vec());
        let mut twice: Vec<bool> =
            good.map(|(_, record)| text(record).unwrap().contains(DUPLICATE)).collect();
        if !twice.contains(&true) {
            twice.clear();
        }
        for refusal in self.tables.admit(&records, &decoded, &from, &twice).expect("admitted") {
            let record = &records[refusal.record];
            let place = (record.partition, record.offset);
            for (output, before) in refusal.refused_by {
                self.open.push((place.0, place.1, output, refusal.class, before));
            }
        }
    }

    fn reached(&self, p: usize) -> Offset {
        match self.next[p] {
            0 => Offset(0),
            read => Offset::after(self.logs[p][read - 1].0),
        }
    }

    fn idle(&mut self, p: usize, event_time: i64) {
        let (p, partition) = (p % self.logs.len(), Partition((p % self.logs.len()) as i32));
        let before = self.reached(p);
        let ahead = |((_, of), mark): (&Place, &Mark)| *of == partition && mark.next > before;
        if self.marks.iter().any(ahead) {
            return;
        }
        let advance = IdleAdvance { partition, before, event_time: EventTime(event_time) };
        if self.tables.advance(advance) {
            self.advancing.push(advance);
        }
    }

    fn seal(&mut self) {
        for (output, partition) in self.marks.keys() {
            self.tables.pass(output, *partition, self.reached(partition.0 as usize));
        }
        self.recorded.extend(&self.advancing);
        self.advances.append(&mut self.advancing);
        let mut sealed = self.tables.seal().expect("sealed");
        for (name, delta) in &sealed.tables {
            assert!(delta.rows.num_rows() > 0, "an empty delta is none");
            let model = DECLARED.models.iter().find(|m| m.name == *name).expect("a model");
            self.committed.tables.entry(name.clone()).or_default().apply(model, delta);
        }
        for (name, late) in sealed.late {
            *self.committed.late.entry(name).or_default() += late;
        }
        let gone = |a: &IdleAdvance| {
            sealed.obsolete.iter().any(|o| (o.partition, o.before) == (a.partition, a.before))
        };
        self.advances.retain(|advance| !gone(advance));
        let reached: Vec<_> = (0..self.logs.len()).map(|p| self.reached(p)).collect();
        for (place, mark) in &mut self.marks {
            let counted = sealed.counts.remove(place).expect("every adopted output is counted");
            *self.committed.fates.entry(place.clone()).or_default() += counted.fates;
            self.committed.event_time_max.insert(place.clone(), counted.event_time_max);
            mark.next = mark.next.max(reached[place.1.0 as usize]);
            mark.event_time_max = counted.event_time_max;
        }
        assert!(sealed.counts.is_empty());
        self.committed.refusals.append(&mut self.open);
    }

    fn abandon(&mut self) {
        self.open.clear();
        self.advancing.clear();
        self.tables.abandon().expect("abandoned");
        self.adopt();
    }

    fn run(mut self, steps: &[Step]) -> (Outcome, Vec<IdleAdvance>) {
        for step in steps {
            match step {
                Step::Read(runs, overlap) => self.read(runs, *overlap),
                Step::Seal => self.seal(),
                Step::Abandon => self.abandon(),
                Step::Idle(p, event_time) => self.idle(*p, *event_time),
            }
        }
        let rest: Vec<_> = (0..self.logs.len()).map(|p| (p, usize::MAX / 2)).collect();
        self.read(&rest, 0);
        self.seal();
        let mut out = self.committed;
        for model in &DECLARED.models {
            if let Some(table) = out.tables.get_mut(&model.name) {
                *table = in_oracle_order(model, table);
            }
        }
        out.refusals.sort_by_key(sort_key);
        (out, self.recorded)
    }
}

fn event() -> impl Strategy<Value = Event> {
    let seconds = prop_oneof![
        20 => (-45i64..45).prop_map(|s| s * SECOND),
        4 => prop::sample::select(vec![-10, 0, 10, 20, 60, -60]).prop_flat_map(|s| {
            (-1i64..=1).prop_map(move |us| s * SECOND + us)
        }),
        1 => Just(i64::MAX),
    ];
    let at = prop_oneof![
        12 => seconds.prop_map(Some),
        1 => Just(None),
    ];
    fn some<T: Clone + std::fmt::Debug + 'static>(
        values: &[T],
    ) -> impl Strategy<Value = Option<T>> + use<T> {
        prop::option::weighted(0.85, prop::sample::select(values.to_vec()))
    }
    (
        at,
        some(&["a", "b", "é"]),
        some(&["1", "1", "-7", "007", "x", "9223372036854775808"]),
        some(&[0i16, 1, -1, 2, 7, i16::MAX, i16::MIN]),
        some(&[0i32, 1, 2, 5, -4, 46_341, i32::MAX, i32::MIN]),
        some(&[0i64, 3, -3, 11, i64::MAX, i64::MIN, i64::MAX - 1]),
        some(&[
            0i64,
            149,
            150,
            -150,
            -250,
            12_345,
            999_999_999_999_999_999,
            -214_748_364_850,
            214_748_364_749,
        ]),
        prop::option::weighted(0.85, -4_000..4_000),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(at, k, txt, small, n, big, amount, quarters, duplicate)| {
            // The last instant that the calendar has.
            let at = at.map(|at| at.min(253_402_300_799_999_999));
            Event { at, k, txt, small, n, big, amount, quarters, duplicate }
        })
}

fn logs() -> impl Strategy<Value = Vec<Log>> {
    // Offsets have gaps, as of compaction and transactions.
    let gap = prop_oneof![6 => Just(1i64), 1 => 2i64..4];
    let log = prop::collection::vec((gap, event()), 0..40).prop_map(|events| {
        let mut offset = -1;
        let placed = events.into_iter().map(|(gap, event)| {
            offset += gap;
            (offset, event)
        });
        placed.collect::<Log>()
    });
    prop::collection::vec(log, 1..4)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let runs = prop::collection::vec((0usize..3, 0usize..12), 0..5);
    let step = prop_oneof![
        6 => (runs, prop_oneof![3 => Just(0usize), 1 => 1usize..6]).prop_map(|(r, o)| Step::Read(r, o)),
        2 => Just(Step::Seal),
        1 => Just(Step::Abandon),
        1 => (0usize..3, -45i64..45).prop_map(|(p, s)| Step::Idle(p, s * SECOND)),
    ];
    prop::collection::vec(step, 0..16)
}

/// Where each output begins in each partition, and what it has seen there already.
fn starts() -> impl Strategy<Value = Vec<(i64, Option<i64>)>> {
    let next = prop_oneof![2 => Just(0i64), 1 => 0i64..30];
    let seen = prop_oneof![3 => Just(None), 1 => (-60i64..60).prop_map(|s| Some(s * SECOND))];
    prop::collection::vec((next, seen), 3 * (SAID.len() + 1))
}

/// What stands recorded before anything is read, one per place.
fn recorded() -> impl Strategy<Value = Vec<IdleAdvance>> {
    prop::collection::btree_map((0i32..3, 0i64..40), -45i64..45, 0..5).prop_map(|all| {
        let one = |((p, before), s): ((i32, i64), i64)| IdleAdvance {
            partition: Partition(p),
            before: Offset(before),
            event_time: EventTime(s * SECOND),
        };
        all.into_iter().map(one).collect()
    })
}

fn marks_of(starts: &[(i64, Option<i64>)], partitions: usize) -> BTreeMap<Place, Mark> {
    let mut starts = starts.iter();
    let mut marks = BTreeMap::new();
    for output in DECLARED.tables().outputs() {
        for p in 0..partitions {
            let (next, seen) = starts.next().expect("one each");
            marks.insert((output.clone(), Partition(p as i32)), mark(*next, *seen));
        }
    }
    marks
}

fn texts(logs: &[Log]) -> Vec<Vec<(i64, String)>> {
    let of = |(offset, event): &(i64, Event)| (*offset, event.json());
    logs.iter().map(|log| log.iter().map(of).collect()).collect()
}

proptest! {
    #[test]
    fn any_batches_cuts_and_failures_give_what_one_event_at_a_time_gives(
        logs in logs(), starts in starts(), steps in steps(), recorded in recorded(),
    ) {
        let marks = marks_of(&starts, logs.len());
        let texts = texts(&logs);
        let (got, recorded) = Lane::new(&texts, marks.clone(), recorded).run(&steps);
        let wanted = oracle(&logs, &marks, &recorded);
        for model in &DECLARED.models {
            prop_assert_eq!(got.tables.get(&model.name), wanted.tables.get(&model.name), "{}", model.name);
        }
        prop_assert_eq!(got, wanted);
    }
}
