//! Folding changes against a reference that takes them one by one, into plain maps.
//!
//! Streams hold whole and partial images, deletes, truncates, changes of the key, updates of rows that
//! are not there, NULL keys, records that were sent again, and equal positions. Where a topic has
//! several partitions and truncates, partial updates are of rows that are there, as a source's are.
//!
//! A snapshot reads what is there, after some rows went untold; a connector may die in the middle of it and
//! begin again, and a transaction that was open meanwhile has changes behind it with positions before it.
//!
//! Bugs that these tests were seen to find, planted one by one: a tie of positions that the earlier
//! offset wins; a deletion that forgets its position. Against PostgreSQL: a change of an open transaction taken for
//! an old one; a swap that leaves what the snapshot does not hold; a whole snapshot forgotten for a later one.

use crate::{
    catalog::{self, Keeps, Model, Topic},
    compute::{
        Tables,
        changes::{Changed, Truncate},
    },
    decode::Decoder,
    record::{EventTime, Mark, Offset, Output, Partition, RawRecord},
};
use arrow::{
    array::{RecordBatch, UInt32Array},
    compute::{concat_batches, take_record_batch},
    util::display::{ArrayFormatter, FormatOptions},
};
use proptest::prelude::*;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// The statements of the models, one per way to keep rows.
pub const ROWS: &str =
    "m AS SELECT k, a, b, g, b + 1 AS c FROM t WHERE coalesce(a, '') <> 'hidden'";
pub const DELETED: &str = "m WITH (deletes = 'soft') AS SELECT k, a, b, g, b + 1 AS c FROM t WHERE coalesce(a, '') <> 'hidden'";
pub const VERSIONS: &str = "m WITH (history = 'validity') AS SELECT k, a, b, g, b + 1 AS c FROM t \
                            WHERE coalesce(a, '') <> 'hidden'";
pub const GROUPS: &str = "m AS SELECT g, count(*) AS n, count(b) AS bs, sum(b) AS total FROM t \
                          WHERE coalesce(a, '') <> 'hidden' GROUP BY g";

pub struct Declared {
    pub topic: Arc<Topic>,
    pub model: Arc<Model>,
    pub sparse: bool,
}

/// A model over the changes of one topic.
pub fn declared(statement: &str, style: Style) -> Declared {
    let images = if style.sparse { "sparse" } else { "full" };
    let order = if style.by_offset { "offset" } else { "source" };
    let topic = format!(
        "topic = \"taps\"\nformat = \"debezium-json\"\n[changes]\nkey = [\"k\"]\nbefore = \"full\"\nimages = \
         \"{images}\"\norder = \"{order}\"\n[columns]\nk = {{ type = \"integer\", optional = true }}\na = {{ type = \
         \"text\", optional = true }}\nb = {{ type = \"bigint\", optional = true }}\ng = {{ type = \"text\", optional = \
         true }}\n"
    );
    let model = format!("CREATE MATERIALIZED VIEW {}", statement.replace("FROM t ", "FROM taps "));
    let catalog = catalog::check(
        &[(PathBuf::from("topics/taps.toml"), topic)],
        &[(PathBuf::from("sql/models/m.sql"), model)],
    );
    let catalog = catalog.unwrap_or_else(|mistakes| {
        panic!("{}", mistakes.iter().map(|m| format!("{m}\n")).collect::<String>())
    });
    let (topic, model) = (catalog.topics["taps"].clone(), catalog.models["m"].clone());
    Declared { topic, model, sparse: style.sparse }
}

/// How a topic's changes are.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    pub partitions: i32,
    pub sparse: bool,
    pub by_offset: bool,
    pub truncates: bool,
    /// The source is read anew now and then, after rows went of which nobody told.
    pub snapshots: bool,
}

pub type Key = Option<i32>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// `c`, `u` or `r`, and which of a, b, g the image holds.
    Image(char, [bool; 3]),
    Delete,
    Truncate,
    /// Nothing about a row.
    Message,
}

#[derive(Debug, Clone)]
pub struct Change {
    pub partition: i32,
    pub offset: i64,
    /// Where it counts as being.
    pub position: u64,
    /// What it says of that; below a snapshot that it comes after, if its transaction was open then.
    lsn: u64,
    /// Microseconds since 1970.
    time: i64,
    /// Of a row of a snapshot, as Debezium tells it.
    pub snapshot: Option<&'static str>,
    what: What,
    key: Key,
    /// The key before, where it was another.
    old: Option<Key>,
    values: Values,
}

type Values = (Option<String>, Option<i64>, Option<String>);

/// One step of a stream, as proptest makes it.
pub type Step = (u8, u8, u8, u8);

/// A stream of changes in the order in which the source makes them.
pub fn stream(steps: &[Step], style: Style) -> Vec<Change> {
    const TEXTS: [Option<&str>; 4] = [None, Some("x"), Some("hidden"), Some("long")];
    const NUMBERS: [Option<i64>; 4] = [None, Some(1), Some(i64::MAX), Some(-7)];
    const GROUPS: [Option<&str>; 3] = [None, Some("north"), Some("south")];
    let mut out: Vec<Change> = Vec::new();
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    let mut there: BTreeMap<Key, i32> = BTreeMap::new();
    let mut position = 100;
    // Orphans in any order, unless a truncate of another partition may come between.
    let wild = (style.partitions == 1 || !style.truncates) && !style.snapshots;
    let mut sent_from = 0;
    for &(kind, key, value, more) in steps {
        let key: Key = (key % 6 > 0).then_some(i32::from(key % 6));
        let partition = key.unwrap_or(0) % style.partitions;
        let values: Values = (
            TEXTS[usize::from(value % 4)].map(str::to_owned),
            NUMBERS[usize::from(value / 4 % 4)],
            GROUPS[usize::from(value / 16 % 3)].map(str::to_owned),
        );
        if more % 8 != 0 {
            position += 10;
        }
        let held = [more & 16 > 0, more & 32 > 0, more & 64 > 0];
        let held = match style.sparse {
            // What is NULL is not in the image.
            true => [values.0.is_some(), values.1.is_some(), values.2.is_some()],
            false => held,
        };
        let mut old = None;
        let mut partition = partition;
        let known = there.contains_key(&key);
        let what = match kind % 16 {
            0..3 => What::Image('c', [true; 3]),
            3 if style.snapshots && !style.by_offset => {
                there.retain(|key, _| key.unwrap_or(0) % 6 != i32::from(value % 6));
                // The connector dies, and begins again.
                if more & 128 > 0 {
                    position += 10;
                    let half = there.len() / 2;
                    snapshot(&mut out, &mut next, there.iter().take(half), position, &values);
                }
                position += 10;
                snapshot(&mut out, &mut next, there.iter(), position, &values);
                if let Some(last) = out.last_mut().filter(|_| !there.is_empty()) {
                    last.snapshot =
                        Some(["last", "last_in_data_collection"][usize::from(more % 2)]);
                }
                if let Some((key, partition)) =
                    there.iter().nth(usize::from(value) % there.len().max(1))
                {
                    let offset = next.entry(*partition).or_insert(0);
                    let what = [What::Image('u', [true; 3]), What::Delete]
                        [usize::from(more / 4 % 2)]
                    .clone();
                    let what = if style.sparse { What::Delete } else { what };
                    out.push(Change {
                        partition: *partition,
                        offset: *offset,
                        position: position + 1,
                        lsn: position - 5,
                        time: 1_700_000_000_000_000 + position as i64 * 1_000 + 7,
                        snapshot: None,
                        what: what.clone(),
                        key: *key,
                        old: None,
                        values: (values.2.clone(), values.1, values.2.clone()),
                    });
                    *offset += 1;
                    if what == What::Delete {
                        let key = *key;
                        there.remove(&key);
                    }
                }
                position += 10;
                sent_from = out.len();
                continue;
            }
            3 => What::Image('r', [true; 3]),
            4..6 if !style.sparse => What::Image('u', [true; 3]),
            6..10 if known || wild => What::Image('u', held),
            10..12 => What::Delete,
            12 if style.truncates => What::Truncate,
            13 if known => {
                // To a key of the same partition.
                let to = key.map_or(style.partitions, |k| k + style.partitions);
                (old, partition) = (Some(key), to % style.partitions);
                match more % 2 {
                    0 if !style.sparse => What::Image('u', [true; 3]),
                    _ => What::Image('u', held),
                }
            }
            14 => What::Message,
            15 => {
                // The connector starts again where it stood some time ago.
                let from = out.len().saturating_sub(usize::from(more)).max(sent_from);
                let sent: Vec<Change> = out[from..].to_vec();
                for again in sent {
                    let offset = next.entry(again.partition).or_insert(0);
                    out.push(Change { offset: *offset, ..again });
                    *offset += 1;
                }
                continue;
            }
            _ => What::Image('c', [true; 3]),
        };
        let key = match old {
            Some(from) => Some(from.unwrap_or(0) + style.partitions),
            None => key,
        };
        match what {
            What::Image('u', _) if !there.contains_key(&old.unwrap_or(key)) && style.sparse => {}
            What::Image(..) => {
                old.map(|old| there.remove(&old));
                there.insert(key, partition);
            }
            What::Delete => drop(there.remove(&key)),
            What::Truncate => {
                position += 10;
                partition = i32::from(value) % style.partitions;
                there.retain(|_, of| style.by_offset && *of != partition);
            }
            What::Message => {}
        }
        let offset = next.entry(partition).or_insert(0);
        let time = 1_700_000_000_000_000 + position as i64 * 1_000 + i64::from(value) * 50;
        let (offset_now, lsn, snapshot) = (*offset, position, None);
        let change = Change {
            partition,
            offset: offset_now,
            position,
            lsn,
            time,
            snapshot,
            what,
            key,
            old,
            values,
        };
        *offset += 1;
        if change.what == What::Truncate {
            position += 10;
        }
        out.push(change);
    }
    out
}

/// Rows of a snapshot, but for its end.
fn snapshot<'k>(
    out: &mut Vec<Change>,
    next: &mut BTreeMap<i32, i64>,
    rows: impl Iterator<Item = (&'k Key, &'k i32)>,
    position: u64,
    values: &Values,
) {
    for (i, (key, partition)) in rows.enumerate() {
        let offset = next.entry(*partition).or_insert(0);
        out.push(Change {
            partition: *partition,
            offset: *offset,
            position,
            lsn: position,
            time: 1_700_000_000_000_000 + position as i64 * 1_000,
            snapshot: Some(if i == 0 { "first" } else { "true" }),
            what: What::Image('r', [true; 3]),
            key: *key,
            old: None,
            values: (values.0.clone(), values.1.map(|b| b ^ i as i64), values.2.clone()),
        });
        *offset += 1;
    }
}

impl Change {
    /// As Debezium writes it.
    pub fn json(&self, sparse: bool) -> String {
        let text = |text: &Option<String>| {
            text.as_ref().map_or("null".to_owned(), |text| format!("\"{text}\""))
        };
        let number = |n: Option<i64>| n.map_or("null".to_owned(), |n| n.to_string());
        let key = |key: Key| format!("\"k\":{}", number(key.map(i64::from)));
        let (a, b, g) = &self.values;
        let image = |held: [bool; 3]| {
            let one = |held: bool, value: String| match (held, sparse) {
                (true, _) => value,
                (false, true) => "null".to_owned(),
                (false, false) => "\"__debezium_unavailable_value\"".to_owned(),
            };
            format!(
                "{{{},\"a\":{},\"b\":{},\"g\":{}}}",
                key(self.key),
                one(held[0], text(a)),
                one(held[1], number(*b)),
                one(held[2], text(g))
            )
        };
        let (op, before, after) = match &self.what {
            What::Image(op, held) => {
                let old = self.old.map_or("null".to_owned(), |old| format!("{{{}}}", key(old)));
                (*op, old, image(*held))
            }
            What::Delete => ('d', format!("{{{}}}", key(self.key)), "null".to_owned()),
            What::Truncate => ('t', "null".to_owned(), "null".to_owned()),
            What::Message => ('m', "null".to_owned(), "null".to_owned()),
        };
        format!(
            "{{\"op\":\"{op}\",\"before\":{before},\"after\":{after},\"source\":{{\"lsn\":{},\"ts_us\":{},\
             \"snapshot\":\"{}\"}}}}",
            self.lsn,
            self.time,
            self.snapshot.unwrap_or("false")
        )
    }
}

/// (position, offset, partition).
type At = (u64, i64, i32);

#[derive(Debug, Clone)]
struct Row {
    values: Values,
    at: At,
    /// When, as the first of its deletions told.
    deleted: Option<i64>,
    /// When it was deleted or truncated.
    gone: Option<i64>,
    /// None: only its deletion was seen.
    known: bool,
}

struct Version {
    key: Key,
    values: Values,
    at: At,
    from: i64,
    to: Option<i64>,
}

/// Changes taken one by one.
pub struct Reference {
    style: Style,
    keeps: Keeps,
    rows: BTreeMap<Key, Row>,
    truncates: Vec<(At, i64)>,
    versions: Vec<Version>,
    pub orphans: u64,
}

impl Reference {
    pub fn of(changes: &[Change], style: Style, keeps: &Keeps) -> Self {
        let mut reference = Self {
            style,
            keeps: keeps.clone(),
            rows: BTreeMap::new(),
            truncates: Vec::new(),
            versions: Vec::new(),
            orphans: 0,
        };
        for change in changes {
            reference.take(change);
            // Whatever the source has lost meanwhile goes with the end of a snapshot.
            if change.snapshot.is_some_and(|mark| mark.starts_with("last")) {
                reference.truncate((change.position, -1, -1), change.time);
            }
        }
        reference
    }

    fn truncate(&mut self, at: At, time: i64) {
        self.truncates.push((at, time));
        let style = self.style;
        let removes = |at_row: At| match style.by_offset {
            true => at.2 == at_row.2 && at.1 > at_row.1,
            false => at > at_row,
        };
        for row in self.rows.values_mut().filter(|row| removes(row.at)) {
            row.gone = Some(row.gone.map_or(time, |gone| gone.min(time)));
        }
        for version in self.versions.iter_mut().filter(|v| removes(v.at)) {
            let to = version.to.map_or(time, |to| to.min(time));
            version.to = Some(to.max(version.from));
        }
    }

    fn removes(&self, truncate: At, at: At) -> bool {
        match self.style.by_offset {
            true => truncate.2 == at.2 && truncate.1 > at.1,
            false => truncate > at,
        }
    }

    fn take(&mut self, change: &Change) {
        let position = if self.style.by_offset { 0 } else { change.position };
        let at = (position, change.offset, change.partition);
        match &change.what {
            What::Message => {}
            What::Truncate => self.truncate(at, change.time),
            What::Delete => self.delete(change.key, at, change.time),
            What::Image(op, held) => {
                let base = change.old.and_then(|old| self.there(old, at));
                if let Some(old) = change.old {
                    self.delete(old, at, change.time);
                }
                if self.is_old(change.key, at) {
                    return;
                }
                let partial = *op == 'u' && (self.style.sparse || held.contains(&false));
                let mut values = change.values.clone();
                let own = self.there(change.key, at);
                if partial {
                    let Some((a, b, g)) = base.or(own.clone()) else {
                        self.orphans += 1;
                        return;
                    };
                    if !held[0] {
                        values.0 = a;
                    }
                    if !held[1] {
                        values.1 = b;
                    }
                    if !held[2] {
                        values.2 = g;
                    }
                }
                let again = self.keeps == Keeps::Versions
                    && !self.style.by_offset
                    && own.as_ref() == Some(&values)
                    && self.rows[&change.key].at.0 == at.0;
                if again {
                    return;
                }
                self.close(change.key, change.time);
                let key = change.key;
                let row =
                    Row { values: values.clone(), at, deleted: None, gone: None, known: true };
                self.rows.insert(key, row);
                self.versions.push(Version { key, values, at, from: change.time, to: None });
                // A truncate that is later by its position has been already.
                let later: Vec<_> = self.truncates.clone();
                for (truncate, time) in later {
                    if self.removes(truncate, at) {
                        let row = self.rows.get_mut(&key).unwrap();
                        row.gone = Some(row.gone.map_or(time, |gone| gone.min(time)));
                        let version = self.versions.last_mut().unwrap();
                        let to = version.to.map_or(time, |to| to.min(time)).max(version.from);
                        version.to = Some(to);
                    }
                }
            }
        }
    }

    fn is_old(&self, key: Key, at: At) -> bool {
        let forgets = matches!(self.keeps, Keeps::Rows | Keeps::Groups { .. });
        self.rows.get(&key).is_some_and(|row| row.at >= at)
            || forgets && self.truncates.iter().any(|(truncate, _)| self.removes(*truncate, at))
    }

    /// The values of a row that is there just before `at`.
    fn there(&self, key: Key, at: At) -> Option<Values> {
        let row =
            self.rows.get(&key).filter(|row| row.known && row.deleted.is_none() && row.at < at)?;
        let between = |t: At| self.removes(t, row.at) && !self.removes(t, at);
        let gone = self.truncates.iter().any(|(truncate, _)| between(*truncate));
        (!gone).then(|| row.values.clone())
    }

    fn delete(&mut self, key: Key, at: At, time: i64) {
        if self.is_old(key, at) {
            return;
        }
        self.close(key, time);
        // By position, a truncate after the last deletion changes nothing but perhaps the time.
        let later = self.truncates.iter().filter(|(truncate, _)| self.removes(*truncate, at));
        let later = later.map(|(_, time)| *time).min();
        let unknown =
            Row { values: (None, None, None), at, deleted: None, gone: None, known: false };
        let row = self.rows.entry(key).or_insert(unknown);
        row.at = at;
        let told = *row.deleted.get_or_insert(time);
        row.gone = Some(later.map_or(told, |later| later.min(told)));
    }

    fn close(&mut self, key: Key, time: i64) {
        if self.rows.get(&key).is_none_or(|row| row.deleted.is_some()) {
            return;
        }
        if let Some(version) = self.versions.iter_mut().rev().find(|v| v.key == key) {
            let to = version.to.map_or(time, |to| to.min(time));
            version.to = Some(to.max(version.from));
        }
    }

    /// The model's table, sorted, cells joined by `|`.
    pub fn table(&self) -> Vec<String> {
        let shown = |values: &Values| values.0.as_deref() != Some("hidden");
        let fits = |values: &Values| shown(values) && values.1 != Some(i64::MAX);
        let text = |text: &Option<String>| text.clone().unwrap_or("NULL".into());
        let number = |n: Option<i64>| n.map_or("NULL".to_owned(), |n| n.to_string());
        let row = |key: Key, values: &Values| {
            let (key, b) = (number(key.map(i64::from)), values.1);
            let (a, g) = (text(&values.0), text(&values.2));
            format!("{key}|{a}|{}|{g}|{}", number(b), number(b.map(|b| b + 1)))
        };
        let there = || self.rows.iter().filter(|(_, r)| r.known && r.gone.is_none());
        let mut table: Vec<String> = match &self.keeps {
            Keeps::Rows => {
                there().filter(|(_, r)| fits(&r.values)).map(|(k, r)| row(*k, &r.values)).collect()
            }
            Keeps::Deleted => self
                .rows
                .iter()
                .filter(|(_, r)| r.known && fits(&r.values))
                .map(|(k, r)| format!("{}|{}", row(*k, &r.values), number(r.gone)))
                .collect(),
            Keeps::Versions => self
                .versions
                .iter()
                .filter(|v| fits(&v.values))
                .map(|v| format!("{}|{}|{}", row(v.key, &v.values), v.from, number(v.to)))
                .collect(),
            Keeps::Groups { .. } => {
                let mut groups: BTreeMap<String, (i64, i64, i128)> = BTreeMap::new();
                for (_, r) in there().filter(|(_, r)| shown(&r.values)) {
                    let group = groups.entry(text(&r.values.2)).or_default();
                    group.0 += 1;
                    group.1 += i64::from(r.values.1.is_some());
                    group.2 += i128::from(r.values.1.unwrap_or(0));
                }
                let line = |(g, (n, bs, total)): (String, (i64, i64, i128))| {
                    let total = if bs == 0 { "NULL".to_owned() } else { total.to_string() };
                    format!("{g}|{n}|{bs}|{total}")
                };
                groups.into_iter().map(line).collect()
            }
        };
        table.sort();
        table
    }
}

/// Changes in cuts: of each partition some, as `cuts` says, until all are taken.
pub fn cuts(changes: &[Change], cuts: &[u8]) -> Vec<Vec<Change>> {
    let mut partitions: BTreeMap<i32, Vec<Change>> = BTreeMap::new();
    for change in changes {
        partitions.entry(change.partition).or_default().push(change.clone());
    }
    let mut out = Vec::new();
    let mut sizes = cuts.iter().cycle();
    while partitions.values().any(|left| !left.is_empty()) {
        let mut cut = Vec::new();
        for left in partitions.values_mut() {
            let size = usize::from(sizes.next().copied().unwrap_or(3) % 9).min(left.len());
            cut.extend(left.drain(..size));
        }
        if cut.is_empty() {
            cut.extend(partitions.values_mut().find(|left| !left.is_empty()).unwrap().drain(..1));
        }
        out.push(cut);
    }
    out
}

/// Decodes a cut and gives it to the tables.
pub fn admit(declared: &Declared, tables: &mut Tables, cut: &[Change]) {
    let texts: Vec<String> = cut.iter().map(|change| change.json(declared.sparse)).collect();
    let records: Vec<RawRecord<'_>> = cut
        .iter()
        .zip(&texts)
        .map(|(change, text)| RawRecord {
            partition: Partition(change.partition),
            offset: change.offset,
            timestamp: EventTime(0),
            key: None,
            value: Some(text.as_bytes()),
        })
        .collect();
    let decoded = Decoder::new(declared.topic.clone(), None).decode(&records);
    assert_eq!(decoded.rejects, []);
    let from: Vec<_> = (0..8).map(|p| (Partition(p), Offset(0))).collect();
    assert_eq!(tables.admit(&records, &decoded, &from, &[]).unwrap(), []);
}

/// The tables of one model, from the beginning of each partition on.
pub fn fresh(declared: &Declared) -> Tables {
    let mut tables = Tables::new(&declared.topic, std::slice::from_ref(&declared.model)).unwrap();
    let outputs = [Output::DeadLetters, Output::Model("m".into())];
    let marks = outputs
        .iter()
        .flat_map(|o| (0..8).map(move |p| (o.clone(), Partition(p), Mark::BEGINNING)));
    tables.adopt(&marks.collect::<Vec<_>>(), &[]);
    tables
}

fn cells(batch: &RecordBatch, row: usize, columns: usize) -> String {
    let cell = |i: usize| {
        let array = batch.column(i);
        let options = FormatOptions::default().with_null("NULL");
        let formatter = ArrayFormatter::try_new(array.as_ref(), &options).unwrap();
        formatter.value(row).to_string()
    };
    (0..columns).map(cell).collect::<Vec<_>>().join("|")
}

/// Stored rows and the model's table, in memory.
#[derive(Default)]
struct Store {
    stored: BTreeMap<String, RecordBatch>,
    truncates: Vec<Truncate>,
    table: BTreeMap<String, String>,
    orphans: u64,
}

impl Store {
    fn commit(&mut self, tables: &mut Tables, by_offset: bool) {
        let Some((_, delta)) = tables.seal().unwrap().tables.pop() else { return };
        let delta = delta.changes.unwrap();
        for truncate in delta.truncates() {
            let at = |row: &RecordBatch| {
                let cell = |i: usize| cells(&row.project(&[i]).unwrap(), 0, 1);
                (cell(5), cell(7).parse::<i64>().unwrap(), cell(6).parse::<i32>().unwrap())
            };
            let removed = |row: &RecordBatch| {
                let at = at(row);
                match by_offset {
                    true => at.2 == truncate.partition && at.1 < truncate.offset,
                    false => at < (truncate.position.clone(), truncate.offset, truncate.partition),
                }
            };
            let gone: Vec<_> = self
                .stored
                .iter()
                .filter(|(_, row)| removed(row))
                .map(|(k, _)| k.clone())
                .collect();
            for key in gone {
                self.stored.remove(&key);
                self.table.remove(&key);
            }
            self.truncates.push(truncate.clone());
        }
        let keys = delta.keys().unwrap();
        let wanted = (0..keys.num_rows()).map(|row| cells(&keys, row, 1));
        let stored: Vec<&RecordBatch> = wanted.filter_map(|key| self.stored.get(&key)).collect();
        let empty = RecordBatch::new_empty(delta.stored());
        let stored = concat_batches(&empty.schema(), stored.into_iter().chain([&empty])).unwrap();
        let outcome = delta.fold(&stored, &self.truncates).unwrap();
        self.orphans += outcome.orphans;
        for row in 0..outcome.rows.num_rows() {
            let one = take_record_batch(&outcome.rows, &UInt32Array::from(vec![row as u32]));
            let mut one = one.unwrap();
            one.remove_column(one.num_columns() - 1);
            self.stored.insert(cells(&one, 0, 1), one);
        }
        let Changed::Rows { there, gone } = outcome.table else { panic!("a model of rows") };
        for row in 0..gone.num_rows() {
            self.table.remove(&cells(&gone, row, 1));
        }
        for row in 0..there.num_rows() {
            self.table.insert(cells(&there, row, 1), cells(&there, row, 5));
        }
    }
}

pub fn style() -> impl Strategy<Value = Style> {
    let bools = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (1i32..4, bools).prop_map(|(partitions, (sparse, by_offset, truncates, snapshots))| Style {
        partitions,
        sparse,
        by_offset: by_offset && !snapshots,
        truncates,
        snapshots,
    })
}

pub fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any::<Step>(), 1..most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn cuts_of_any_size_fold_to_what_one_by_one_gives(
        style in style(), steps in steps(60), sizes in prop::collection::vec(any::<u8>(), 1..9),
    ) {
        // What waits for a snapshot's end waits in PostgreSQL.
        let style = Style { snapshots: false, ..style };
        let changes = stream(&steps, style);
        let declared = declared(ROWS, style);
        let reference = Reference::of(&changes, style, &Keeps::Rows);
        let mut one_by_one = Store::default();
        let mut tables = fresh(&declared);
        for change in &changes {
            admit(&declared, &mut tables, std::slice::from_ref(change));
            one_by_one.commit(&mut tables, style.by_offset);
        }
        let mut tables = fresh(&declared);
        let mut store = Store::default();
        let mut open: Vec<Change> = Vec::new();
        for (i, cut) in cuts(&changes, &sizes).iter().enumerate() {
            admit(&declared, &mut tables, cut);
            open.extend(cut.iter().cloned());
            if sizes[i % sizes.len()] & 64 > 0 {
                // A process that ends here has folded nothing of the open cut.
                tables.abandon().unwrap();
                tables = fresh(&declared);
                open.sort_by_key(|change| (change.partition, change.offset));
                admit(&declared, &mut tables, &open);
            }
            if sizes[i % sizes.len()] & 128 == 0 {
                store.commit(&mut tables, style.by_offset);
                open.clear();
            }
        }
        store.commit(&mut tables, style.by_offset);
        prop_assert_eq!(&store.stored, &one_by_one.stored, "what is stored of the source's rows");
        let mut table: Vec<String> = store.table.into_values().collect();
        table.sort();
        prop_assert_eq!(table, reference.table());
        if !style.truncates {
            prop_assert_eq!(store.orphans, reference.orphans);
        }
    }
}
