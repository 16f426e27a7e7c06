//! What a single clean run over all records gives: one record at a time, in order of offsets, in maps. Stupid on
//! purpose, and with nothing of the product in it.

use super::plan::{Column, DISORDER_S, Kind, Late, Shape, Spec, Tap};
use std::collections::{BTreeMap, BTreeSet};

pub type Row = Vec<Option<String>>;
/// Accepted, filtered, late, dead.
pub type Fates = [i64; 4];

#[derive(Default)]
pub struct Expected {
    /// By model, in order.
    pub tables: BTreeMap<String, Vec<Row>>,
    /// By output and partition.
    pub fates: BTreeMap<(String, i32), Fates>,
    /// Output, partition, offset and class.
    pub letters: BTreeSet<(String, i32, i64, String)>,
    /// Who counts which offset as dead.
    pub refusals: BTreeSet<(String, i32, i64)>,
    /// `tap_id` by partition and offset.
    pub lake: BTreeMap<(i32, i64), String>,
}

#[derive(Default)]
struct Group {
    taps: i64,
    fare: Option<i128>,
    others: BTreeSet<String>,
    most: Option<i64>,
}

impl Group {
    fn add(&mut self, tap: &Tap, other: Column) {
        self.taps += 1;
        self.others.insert(tap.column(other).to_owned());
        if let Some(fare) = tap.fare {
            self.fare = Some(self.fare.unwrap_or(0) + i128::from(fare));
            self.most = self.most.max(Some(fare));
        }
    }
}

/// Windows that hold the instant: start and end, in seconds.
fn windows(shape: Shape, at: i64) -> Vec<(i64, i64)> {
    let (slide, size) = match shape {
        Shape::All => return vec![(0, i64::MAX)],
        Shape::Tumble(size) => (size * 60, size * 60),
        Shape::Hop(slide, size) => (slide * 60, size * 60),
    };
    let last = at.div_euclid(slide) * slide;
    let starts = (0..).map(|n| last - n * slide).take_while(|start| start + size > at);
    starts.map(|start| (start, start + size)).collect()
}

/// `began`: event time that was recorded for partitions that were added, before their first record (E-5); by when they
/// were seen first it may be one or another, so that it is input here.
pub fn expected(
    specs: &BTreeMap<String, Spec>,
    log: &[Vec<Tap>],
    began: &BTreeMap<i32, i64>,
) -> Expected {
    let mut all = Expected::default();
    for (partition, taps) in log.iter().enumerate() {
        let partition = partition as i32;
        // A letter is all that the dead letters take.
        for (output, good) in [("lake", 0), ("dead_letters", 1)] {
            let fates = all.fates.entry((output.to_owned(), partition)).or_default();
            for (offset, tap) in taps.iter().enumerate() {
                match tap.flaw.class() {
                    None => fates[good] += 1,
                    Some(_) => {
                        fates[3] += 1;
                        all.refusals.insert((output.to_owned(), partition, offset as i64));
                    }
                }
            }
        }
        for (offset, tap) in taps.iter().enumerate() {
            let place = (partition, offset as i64);
            match tap.flaw.class() {
                None => drop(all.lake.insert(place, tap.id())),
                Some(class) => {
                    let letter = ("dead_letters".to_owned(), place.0, place.1, class.to_owned());
                    all.letters.insert(letter);
                }
            }
        }
    }
    for (name, spec) in specs {
        let rows = table(&mut all, &format!("model:{name}"), spec, log, began);
        all.tables.insert(name.clone(), rows);
    }
    all
}

fn text(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

/// What of a table grows record by record.
#[derive(Default)]
struct Content {
    groups: BTreeMap<(i64, i64, String), Group>,
    /// By stop: its latest place, and the tap.
    latest: BTreeMap<String, ((i64, i32, i64), Tap)>,
    each: Vec<Row>,
}

fn table(
    all: &mut Expected,
    output: &str,
    spec: &Spec,
    log: &[Vec<Tap>],
    began: &BTreeMap<i32, i64>,
) -> Vec<Row> {
    let mut content = Content::default();
    for (partition, taps) in log.iter().enumerate() {
        let partition = partition as i32;
        let mut highest = began.get(&partition).copied();
        let mut fates = Fates::default();
        for (offset, tap) in taps.iter().enumerate() {
            let place = (partition, offset as i64);
            let fate = match tap.flaw.class() {
                Some(_) => Fate::Dead(None),
                None if spec.filter.is_some_and(|filter| !filter.takes(tap)) => Fate::Filtered,
                None => content.take(&spec.kind, tap, place, highest),
            };
            if tap.flaw.class().is_none() {
                highest = highest.max(Some(tap.at));
            }
            match fate {
                Fate::Accepted => fates[0] += 1,
                Fate::Filtered => fates[1] += 1,
                Fate::Late => fates[2] += 1,
                Fate::Dead(class) => {
                    fates[3] += 1;
                    all.refusals.insert((output.to_owned(), place.0, place.1));
                    let letter =
                        |class: &str| (output.to_owned(), place.0, place.1, class.to_owned());
                    all.letters.extend(class.map(letter));
                }
            }
        }
        all.fates.insert((output.to_owned(), partition), fates);
    }
    content.rows(&spec.kind)
}

enum Fate {
    Accepted,
    Filtered,
    Late,
    /// With the class of its own letter.
    Dead(Option<&'static str>),
}

impl Content {
    fn take(
        &mut self,
        kind: &Kind,
        tap: &Tap,
        (partition, offset): (i32, i64),
        highest: Option<i64>,
    ) -> Fate {
        match kind {
            Kind::Latest => {
                let place = (tap.at, partition, offset);
                let known = self.latest.get(&tap.stop).map(|(known, _)| *known);
                if known.is_none_or(|known| known < place) {
                    self.latest.insert(tap.stop.clone(), (place, tap.clone()));
                }
            }
            Kind::Each => {
                if tap.fare == Some(i64::MAX) {
                    return Fate::Dead(Some("model"));
                }
                let doubled = tap.fare.map(|fare| (fare * 2).to_string());
                self.each.push(vec![text(partition), text(offset), text(tap.id()), doubled]);
            }
            Kind::Aggregate { shape, late, lateness, key, .. } => {
                let is_final = |end: i64| {
                    *shape != Shape::All
                        && highest.is_some_and(|h| end + lateness * 60 <= h - DISORDER_S)
                };
                let (closed, open): (Vec<_>, Vec<_>) =
                    windows(*shape, tap.at).into_iter().partition(|(_, end)| is_final(*end));
                let into = match late {
                    Late::Amend => [closed, open].concat(),
                    Late::Drop if open.is_empty() => return Fate::Late,
                    Late::DeadLetter if open.is_empty() => return Fate::Dead(Some("late")),
                    Late::Drop | Late::DeadLetter => open,
                };
                for (start, end) in into {
                    let group = (start, end, tap.column(*key).to_owned());
                    self.groups.entry(group).or_default().add(tap, key.other());
                }
            }
        }
        Fate::Accepted
    }

    fn rows(self, kind: &Kind) -> Vec<Row> {
        let mut rows = self.each;
        for (stop, (_, tap)) in self.latest {
            rows.push(vec![text(stop), text(tap.id()), tap.fare.map(|fare| fare.to_string())]);
        }
        if let Kind::Aggregate { shape, distinct, most, .. } = kind {
            for ((start, end, key), group) in self.groups {
                let mut row = Row::new();
                if *shape != Shape::All {
                    row.extend([text(start), text(end)]);
                }
                row.extend([text(key), text(group.taps), group.fare.map(|fare| fare.to_string())]);
                row.extend(distinct.then(|| text(group.others.len())));
                row.extend(most.then(|| group.most.map(|most| most.to_string())));
                rows.push(row);
            }
        }
        rows.sort();
        rows
    }
}
