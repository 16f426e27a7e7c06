//! Kafka's log, the warehouse and the bucket as maps. Each request is atomic at the instant at
//! which it lands; what a lock does in PostgreSQL (a take waits for the commit that was first) is
//! the order of landing here.
//!
//! Every method checks what it is asked against the invariants and panics where one is broken.

use super::judge::{Kept, Records};
use highwater::{
    compute::unique::{Memory, Verdicts},
    error::Kind,
    pipeline::worker::Move,
    record::{
        Epoch, EventTime, IdleAdvance, Lane, Mark, Offset, Output, Partition,
        gap::{self, Gap, PartitionLog},
    },
    warehouse::Taken,
};
use std::collections::{BTreeMap, BTreeSet};

/// Number of a process's life; a restart is another life.
pub type Life = usize;
/// A record's place: partition and offset.
pub type Place = (i32, i64);
/// What an output of the tables makes of a record: whether it came too late.
pub type Verdict = (Out, Place, bool);

/// Tumbling windows, so small that some records are late.
pub const WINDOW: i64 = 100_000;
pub const DISORDER: i64 = 50_000;

/// An output by number, so that sets of them are cheap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Out {
    Lake,
    DeadLetters,
    Old,
    /// Known only to processes of the new version: its marks stand behind the others'.
    New,
}

impl Out {
    pub const ALL: [Self; 4] = [Self::Lake, Self::DeadLetters, Self::Old, Self::New];

    pub fn output(self) -> Output {
        match self {
            Self::Lake => Output::Lake,
            Self::DeadLetters => Output::DeadLetters,
            Self::Old => Output::Model("old".into()),
            Self::New => Output::Model("new".into()),
        }
    }

    pub fn of(output: &Output) -> Self {
        match output {
            Output::Lake => Self::Lake,
            Output::DeadLetters => Self::DeadLetters,
            Output::Model(name) if &**name == "old" => Self::Old,
            Output::Model(_) => Self::New,
        }
    }

    pub fn lane(self) -> Lane {
        match self {
            Self::Lake => Lane::Lake,
            Self::DeadLetters | Self::Old | Self::New => Lane::Tables,
        }
    }
}

/// One partition's log: offsets from `start`, each with a record or absent for good.
#[derive(Debug, Default)]
pub struct Log {
    pub start: i64,
    /// Retention has passed what is below; `present` remembers it all the same.
    pub oldest: i64,
    /// The key of each record.
    present: Vec<Option<u32>>,
    /// Event time, and when it was appended.
    times: Vec<(i64, u64)>,
}

impl Log {
    pub fn new(start: i64) -> Self {
        Self { start, oldest: start, present: Vec::new(), times: Vec::new() }
    }

    pub fn end(&self) -> i64 {
        self.start + self.present.len() as i64
    }

    pub fn told(&self) -> PartitionLog {
        PartitionLog { topic_id: None, oldest: Offset(self.oldest), end: Offset(self.end()) }
    }

    pub fn append(&mut self, key: Option<u32>, event_time: i64, now: u64) {
        self.present.push(key);
        self.times.push((event_time, now));
    }

    pub fn event_time(&self, offset: i64) -> i64 {
        self.times[(offset - self.start) as usize].0
    }

    /// Where it ended then.
    pub fn end_at(&self, then: u64) -> i64 {
        self.start + self.times.partition_point(|(_, appended)| *appended < then) as i64
    }

    pub fn records(&self, from: i64, to: i64) -> impl Iterator<Item = i64> + '_ {
        let (low, high) = (from.max(self.start), to.min(self.end()).max(self.start));
        (low..high).filter(|o| self.present[(o - self.start) as usize].is_some())
    }

    /// Key and event time of a record that is there.
    pub fn record(&self, offset: i64) -> (u32, i64) {
        let key = self.present[(offset - self.start) as usize].expect("a record");
        (key, self.event_time(offset))
    }
}

/// Nobody's life: an operator's doing is a rival to everybody.
const OPERATOR: Life = Life::MAX;

/// One row of `highwater.marks`.
#[derive(Debug, Clone)]
struct Row {
    first: i64,
    next: i64,
    epoch: i64,
    event_time_max: Option<i64>,
    sequence: i64,
    fates: u64,
    /// Accepted as gone by an operator, half open.
    lost: Vec<(i64, i64)>,
    /// Who took it last, and whether that take landed after its taker had given it up.
    owner: Life,
    stray: bool,
}

/// One row of `highwater.lake_files`.
#[derive(Debug, Clone)]
pub struct File {
    pub path: String,
    pub upload: u64,
    pub parts: usize,
    /// In order of admission.
    pub rows: Vec<Place>,
}

#[derive(Debug)]
struct Committed {
    file: File,
    completed: bool,
}

/// How far event time came without a record: by place.
pub type Advances = BTreeMap<Place, i64>;

/// A cut on its way.
#[derive(Debug, Clone)]
pub struct Commit {
    pub life: Life,
    pub lane: Lane,
    pub cut: u64,
    pub moves: Vec<Move>,
    /// Of the tables.
    pub rows: Vec<Verdict>,
    /// How far event time came without a record: by place.
    pub advances: Vec<(Place, i64)>,
    /// Per mark that moves: how far event time had come.
    pub times: BTreeMap<(Out, i32), Option<i64>>,
    /// Of the judge.
    pub verdicts: Verdicts,
    /// Of the lake.
    pub files: Vec<File>,
}

#[derive(Debug, Default)]
pub struct Warehouse {
    marks: BTreeMap<(Out, i32), Row>,
    /// How often each record was applied: per mark, by offset from the mark's first.
    applied: BTreeMap<(Out, i32), Vec<u8>>,
    /// What each output of the tables made of each record.
    verdicts: BTreeMap<(Out, Place), bool>,
    /// `highwater.idle_advances`.
    advances: Advances,
    files: BTreeMap<String, Committed>,
    /// Upload to path, partition, epoch.
    notes: BTreeMap<u64, (String, i32, i64)>,
    pub records: Records,
    pub judged: bool,
    pub commits: u64,
    pub fenced: u64,
    pub lost: u64,
    pub advanced: u64,
}

impl Row {
    fn is_lost(&self, offset: i64) -> bool {
        self.lost.iter().any(|(from, to)| (*from..*to).contains(&offset))
    }
}

impl Warehouse {
    pub fn new(judged: bool) -> Self {
        Self { judged, ..Self::default() }
    }

    pub fn take(
        &mut self,
        life: Life,
        outputs: &[Out],
        lane: Lane,
        partitions: &[(i32, PartitionLog)],
        stray: bool,
    ) -> Taken {
        let (mut taken, mut gaps) = (Vec::new(), Vec::new());
        for &(partition, log) in partitions {
            let oldest = log.oldest.0;
            for &out in outputs {
                self.marks.entry((out, partition)).or_insert(Row {
                    first: oldest,
                    next: oldest,
                    epoch: 0,
                    event_time_max: None,
                    sequence: 0,
                    fates: 0,
                    lost: Vec::new(),
                    owner: life,
                    stray,
                });
            }
            let before = gaps.len();
            for &out in outputs {
                let next = Offset(self.marks[&(out, partition)].next);
                if let Some(reason) = gap::judge(next, None, &log) {
                    let (output, partition) = (out.output(), Partition(partition));
                    gaps.push(Gap { output, partition, reason, next, topic_id: None, log });
                }
            }
            if gaps.len() > before {
                continue;
            }
            for (&(out, p), row) in &mut self.marks {
                if p != partition || out.lane() != lane {
                    continue;
                }
                row.epoch += 1;
                row.owner = life;
                row.stray = stray;
                if outputs.contains(&out) {
                    let mark = Mark {
                        first: Offset(row.first),
                        next: Offset(row.next),
                        epoch: Epoch(row.epoch),
                        event_time_max: row.event_time_max.map(EventTime),
                        fates: Default::default(),
                        sequence: row.sequence,
                    };
                    taken.push((out.output(), Partition(partition), mark));
                }
            }
        }
        let whole = |p: i32| gaps.iter().all(|gap: &Gap| gap.partition.0 != p);
        let taken_of: Vec<i32> = partitions.iter().map(|(p, _)| *p).filter(|p| whole(*p)).collect();
        let advances = self.advances_for(outputs, lane, &taken_of);
        Taken { marks: taken, gaps, advances, additions: None }
    }

    /// What `highwater accept-gap` does, and nothing else ever passes an offset unread.
    pub fn accept(&mut self, partition: i32, oldest: i64) {
        for (_, row) in self.marks.iter_mut().filter(|((_, p), _)| *p == partition) {
            if row.next < oldest {
                row.lost.push((row.next, oldest));
                self.lost += (oldest - row.next) as u64;
                row.next = oldest;
                row.epoch += 1;
                (row.owner, row.stray) = (OPERATOR, true);
            }
        }
    }

    /// At or above the lowest mark, and the furthest below it.
    fn advances_for(&self, outputs: &[Out], lane: Lane, partitions: &[i32]) -> Vec<IdleAdvance> {
        let mut advances = Vec::new();
        for &p in partitions.iter().filter(|_| lane == Lane::Tables) {
            let lowest = outputs.iter().map(|out| self.marks[&(*out, p)].next).min();
            let lowest = lowest.expect("an output");
            let below = self.advances.range((p, 0)..(p, lowest)).map(|(_, t)| *t).max();
            let at_or_above = self.advances.range((p, lowest)..(p, i64::MAX));
            let all = below.map(|t| (lowest - 1, t)).into_iter();
            advances.extend(all.chain(at_or_above.map(|((_, before), t)| (*before, *t))).map(
                |(before, t)| IdleAdvance {
                    partition: Partition(p),
                    before: Offset(before),
                    event_time: EventTime(t),
                },
            ));
        }
        advances
    }

    /// E-4: nobody has judged a record behind the place, and it is the cut's own.
    fn record_advances(&mut self, commit: &Commit) {
        for &((p, before), t) in &commit.advances {
            for (&(out, _), row) in self.marks.iter().filter(|((_, of), _)| *of == p) {
                let judged = out != Out::Lake && row.next > before;
                let own =
                    commit.moves.iter().find(|m| (Out::of(&m.output), m.partition.0) == (out, p));
                assert!(
                    !judged,
                    "E-4: {out:?} stands at {} above the advance at {p}@{before}",
                    row.next
                );
                let within = own.is_none_or(|m| before <= m.span.to.0);
                assert!(within, "E-4: an advance at {p}@{before} outside of {own:?}");
            }
            let known = self.advances.entry((p, before)).or_insert(t);
            assert!(t >= *known, "event time goes back at {p}@{before}, from {known} to {t}");
            *known = t;
            self.advanced += 1;
        }
    }

    /// Whoever reads the log anew, slowly, with what stands recorded, judges as was judged.
    fn check_verdicts(&self, logs: &[Log]) {
        for (&(out, p), row) in self.marks.iter().filter(|((out, _), _)| *out != Out::Lake) {
            let log = &logs[p as usize];
            let mut seen: Vec<i64> = Vec::new();
            for offset in log.records(row.first, row.next).filter(|o| !row.is_lost(*o)) {
                let advanced = self.advances.range((p, 0)..=(p, offset)).map(|(_, t)| *t).max();
                let highest = seen.iter().copied().chain(advanced).max();
                let t = log.event_time(offset);
                let end = t.div_euclid(WINDOW) * WINDOW + WINDOW;
                let late = highest.is_some_and(|highest| end <= highest - DISORDER);
                seen.push(t);
                if self.records.duplicates.contains(&(p, offset)) {
                    continue;
                }
                let judged = self.verdicts.get(&(out, (p, offset)));
                assert_eq!(
                    judged,
                    Some(&late),
                    "E-4: a replay judges {out:?} {p}@{offset} otherwise"
                );
            }
        }
    }

    /// `given_up`: the process does not count on this cut any more.
    pub fn commit(
        &mut self,
        commit: &Commit,
        logs: &[Log],
        given_up: bool,
    ) -> Result<Memory, (Kind, String)> {
        for m in &commit.moves {
            let key = (Out::of(&m.output), m.partition.0);
            let row = self.marks.get(&key).expect("a move names a mark that was taken");
            if row.epoch == m.epoch.0 {
                assert_eq!(row.next, m.span.from.0, "C-1: cut begins off its mark {key:?} {m:?}");
                continue;
            }
            let rival = row.owner != commit.life || row.stray || given_up;
            assert!(rival, "refused without a rival: {key:?} {m:?}, found {row:?}");
            self.fenced += 1;
            return Err((Kind::Fenced, format!("{key:?} {m:?} found {row:?}")));
        }
        let mut learned = Memory::default();
        if self.judged {
            let reached = self.reached_by(commit);
            let mut advances = self.advances.clone();
            advances.extend(commit.advances.iter().copied());
            let number = self.commits;
            match commit.lane {
                Lane::Tables => {
                    let lost = |p: i32, offset: i64| {
                        self.marks
                            .get(&(Out::DeadLetters, p))
                            .is_some_and(|row| row.is_lost(offset))
                    };
                    let kept = Kept { reached: &reached, advances: &advances, logs, lost: &lost };
                    let met = self.records.commit(commit, &kept, number, given_up);
                    let met =
                        met.ok_or_else(|| (Kind::Retry, "another process took a key".to_owned()));
                    learned = met?;
                }
                Lane::Lake => {
                    for m in &commit.moves {
                        let judged = self.next(Out::DeadLetters, m.partition.0);
                        assert!(judged >= Some(m.span.to.0), "J-1: ahead of the judge: {m:?}");
                    }
                }
            }
        }
        self.check_yield(commit, logs);
        self.record_advances(commit);
        for file in &commit.files {
            let note = self.notes.remove(&file.upload);
            let (_, partition, epoch) = note.expect("W-4: a committed upload was noted");
            let moves = |m: &Move| m.partition.0 == partition && m.epoch.0 == epoch;
            assert!(commit.moves.iter().any(moves), "W-4: the note names a mark of the cut");
            let old = self
                .files
                .insert(file.path.clone(), Committed { file: file.clone(), completed: false });
            assert!(old.is_none(), "two files of one name: {}", file.path);
        }
        for m in &commit.moves {
            let key = (Out::of(&m.output), m.partition.0);
            let row = self.marks.get_mut(&key).expect("seen above");
            let advanced = commit.advances.iter().any(|((p, _), _)| *p == m.partition.0);
            let moves = m.span.to.0 > row.next || key.0 != Out::Lake && m.span.to.0 == row.next;
            assert!(moves || advanced, "a mark moves only forward");
            if let Some(time) = commit.times.get(&key) {
                assert!(*time >= row.event_time_max, "event time goes back: {key:?} {time:?}");
                row.event_time_max = *time;
            }
            assert!(
                key.0 != Out::Lake || m.sequence > row.sequence,
                "L-2: a file's number does not ascend, {m:?} {row:?}"
            );
            row.next = m.span.to.0;
            row.sequence = m.sequence;
            row.fates += m.span.len();
            let lost: i64 = row.lost.iter().map(|(from, to)| to - from).sum();
            assert_eq!(row.first + row.fates as i64 + lost, row.next, "I-3 at {key:?}");
        }
        self.commits += 1;
        Ok(learned)
    }

    /// How far event time of each partition has come for the judge when this is committed.
    fn reached_by(&self, commit: &Commit) -> BTreeMap<i32, i64> {
        let mut reached: BTreeMap<_, _> =
            self.reached().into_iter().map(|(p, time)| (p.0, time.0)).collect();
        for (&(out, p), time) in &commit.times {
            if let (Out::DeadLetters, Some(time)) = (out, time) {
                reached.insert(p, *time);
            }
        }
        reached
    }

    /// As far as it is committed.
    pub fn reached(&self) -> Vec<(Partition, EventTime)> {
        let of_judge = self.marks.iter().filter(|((out, _), _)| *out == Out::DeadLetters);
        let reached = |((_, p), row): (&(Out, i32), &Row)| {
            Some((Partition(*p), EventTime(row.event_time_max?)))
        };
        of_judge.filter_map(reached).collect()
    }

    /// `oldest`: where the lake begins if it has no mark yet.
    pub fn recall(&self, oldest: &[(i32, i64)]) -> Memory {
        let floors = oldest.iter().map(|&(p, oldest)| {
            let marks = Out::ALL.iter().filter_map(|out| self.next(*out, p));
            let lowest = marks.min().unwrap_or(oldest);
            let is_there = self.next(Out::Lake, p).is_some();
            (p, if is_there { lowest } else { lowest.min(oldest) })
        });
        let floors: Vec<_> = floors.collect();
        self.records.recall(self.reached(), &floors)
    }

    /// What the cut yields is each record of its spans, once, and nothing else (C-3).
    fn check_yield(&mut self, commit: &Commit, logs: &[Log]) {
        for &(out, place, late) in &commit.rows {
            self.verdicts.insert((out, place), late);
        }
        let of_files = commit.files.iter().flat_map(|f| &f.rows).map(|place| (Out::Lake, *place));
        let of_tables = commit.rows.iter().map(|(out, place, _)| (*out, *place));
        let mut rows: Vec<_> = of_tables.chain(of_files).collect();
        rows.sort_unstable();
        let mut expected = Vec::with_capacity(rows.len());
        for m in &commit.moves {
            let (out, p) = (Out::of(&m.output), m.partition.0);
            let log = &logs[p as usize];
            assert!(m.span.to.0 <= log.end(), "a cut ends behind the log's end: {m:?}");
            let first = self.marks[&(out, p)].first;
            let applied = self.applied.entry((out, p)).or_default();
            applied.resize((log.end() - first) as usize, 0);
            for offset in log.records(m.span.from.0, m.span.to.0) {
                if self.records.duplicates.contains(&(p, offset)) {
                    continue;
                }
                expected.push((out, (p, offset)));
                let count = &mut applied[(offset - first) as usize];
                *count += 1;
                assert_eq!(*count, 1, "applied twice: {out:?} {p}@{offset}");
            }
        }
        expected.sort_unstable();
        if rows != expected {
            let given: BTreeSet<_> = rows.iter().collect();
            let wanted: BTreeSet<_> = expected.iter().collect();
            panic!(
                "a cut's yield is not its spans: lost {:?}, invented {:?}, {} rows for {} records, {:?}",
                wanted.difference(&given).collect::<Vec<_>>(),
                given.difference(&wanted).collect::<Vec<_>>(),
                rows.len(),
                expected.len(),
                commit.moves
            );
        }
    }

    pub fn note(&mut self, upload: u64, path: &str, partition: i32, epoch: i64) {
        self.notes.insert(upload, (path.to_owned(), partition, epoch));
    }

    pub fn unfinished(&self) -> Vec<File> {
        let owed = self.files.values().filter(|f| !f.completed);
        owed.map(|f| f.file.clone()).collect()
    }

    pub fn completed(&mut self, paths: &[String], bucket: &Bucket) {
        for path in paths {
            assert!(bucket.objects.contains_key(path), "called complete but not visible: {path}");
            self.files.get_mut(path).expect("only committed files are completed").completed = true;
        }
    }

    pub fn abandoned(&self) -> Vec<u64> {
        let old = |(_, partition, epoch): &(String, i32, i64)| {
            self.marks.get(&(Out::Lake, *partition)).is_some_and(|row| *epoch < row.epoch)
        };
        self.notes.iter().filter(|(_, note)| old(note)).map(|(upload, _)| *upload).collect()
    }

    pub fn forget(&mut self, uploads: &[u64]) {
        for upload in uploads {
            self.notes.remove(upload);
        }
    }

    /// By their notes, and by files that are not completed.
    pub fn named_uploads(&self) -> BTreeSet<u64> {
        let owed = self.files.values().filter(|f| !f.completed).map(|f| f.file.upload);
        self.notes.keys().copied().chain(owed).collect()
    }

    pub fn notes(&self) -> usize {
        self.notes.len()
    }

    pub fn next(&self, out: Out, partition: i32) -> Option<i64> {
        self.marks.get(&(out, partition)).map(|row| row.next)
    }

    pub fn is_committed(&self, path: &str, upload: u64) -> bool {
        self.files.get(path).is_some_and(|f| f.file.upload == upload)
    }

    /// Every record of the log in each output, every file completed.
    pub fn is_complete(&self, logs: &[Log]) -> bool {
        let stands_at_end = |out: Out, p: usize| self.next(out, p as i32) == Some(logs[p].end());
        self.files.values().all(|f| f.completed)
            && Out::ALL.iter().all(|out| (0..logs.len()).all(|p| stands_at_end(*out, p)))
    }

    pub fn check_at_the_end(&self, logs: &[Log], bucket: &Bucket) {
        let twice = &self.records.duplicates;
        for out in Out::ALL {
            for (p, log) in logs.iter().enumerate() {
                let applied = &self.applied.get(&(out, p as i32)).cloned().unwrap_or_default();
                let row = &self.marks[&(out, p as i32)];
                let times = |o: i64| applied.get((o - row.first) as usize).copied().unwrap_or(0);
                let wanted = |o: i64| !row.is_lost(o) && !twice.contains(&(p as i32, o));
                // Gone unread is what an operator accepted, not a record more and not one less.
                let due = || log.records(row.first, log.end());
                let wrong = due().find(|o| times(*o) != u8::from(wanted(*o)));
                assert_eq!(wrong, None, "not applied once, or lost and applied: {out:?} of {p}");
                let sum: u64 = applied.iter().map(|c| u64::from(*c)).sum();
                let records = due().filter(|o| wanted(*o)).count() as u64;
                assert_eq!(sum, records, "applied what is no record: {out:?} of {p}");
            }
        }
        self.check_verdicts(logs);
        let mut visible: Vec<Place> = Vec::new();
        for (path, rows) in &bucket.objects {
            let committed = self.files.get(path).expect("a visible object is in the manifest");
            assert_eq!(rows, &committed.file.rows, "another file in the place of {path}");
            visible.extend(rows);
        }
        assert_eq!(bucket.objects.len(), self.files.len(), "a committed file is not visible");
        visible.sort_unstable();
        let all: Vec<Place> = logs
            .iter()
            .enumerate()
            .flat_map(|(p, log)| {
                let row = &self.marks[&(Out::Lake, p as i32)];
                let due = log.records(row.first, log.end()).filter(|o| !row.is_lost(*o));
                due.map(move |o| (p as i32, o))
            })
            .filter(|place| !twice.contains(place))
            .collect();
        assert!(
            visible == all,
            "the lake's visible rows are not the log's records without duplicates"
        );
    }

    pub fn late(&self) -> u64 {
        self.verdicts.values().filter(|late| **late).count() as u64
    }

    pub fn describe(&self) -> String {
        let mark = |((out, p), row): (&(Out, i32), &Row)| {
            format!("{out:?}/{p}@{} epoch {} of life {}", row.next, row.epoch, row.owner)
        };
        let owed: Vec<_> =
            self.files.iter().filter(|(_, f)| !f.completed).map(|(path, _)| path).collect();
        let marks: Vec<_> = self.marks.iter().map(mark).collect();
        format!("{}; owed {owed:?}", marks.join(", "))
    }
}

#[derive(Debug)]
struct Upload {
    path: String,
    parts: BTreeMap<usize, Vec<Place>>,
}

#[derive(Debug, Default)]
pub struct Bucket {
    uploads: BTreeMap<u64, Upload>,
    objects: BTreeMap<String, Vec<Place>>,
    next: u64,
}

impl Bucket {
    pub fn begin(&mut self, path: &str) -> u64 {
        self.next += 1;
        self.uploads.insert(self.next, Upload { path: path.to_owned(), parts: BTreeMap::new() });
        self.next
    }

    pub fn put(&mut self, upload: u64, number: usize, rows: &[Place]) -> Result<(), Kind> {
        let upload = self.uploads.get_mut(&upload).ok_or(Kind::Retry)?;
        upload.parts.insert(number, rows.to_vec());
        Ok(())
    }

    pub fn complete(&mut self, file: &File, warehouse: &Warehouse) {
        assert!(
            warehouse.is_committed(&file.path, file.upload),
            "completed before it was committed: {}",
            file.path
        );
        match self.uploads.remove(&file.upload) {
            Some(upload) => {
                assert_eq!(upload.path, file.path);
                assert_eq!(upload.parts.len(), file.parts, "parts of {}", file.path);
                let rows: Vec<_> = upload.parts.into_values().flatten().collect();
                assert_eq!(rows, file.rows, "content of {}", file.path);
                let old = self.objects.insert(file.path.clone(), rows);
                assert!(old.is_none(), "an object was replaced: {}", file.path);
            }
            None => {
                let there = self.objects.get(&file.path).map(Vec::len);
                assert_eq!(there, Some(file.rows.len()), "a committed file is lost: {}", file.path);
            }
        }
    }

    /// What a listing shows: uploads with a part.
    pub fn staged(&self) -> Vec<u64> {
        let with_parts = self.uploads.iter().filter(|(_, upload)| !upload.parts.is_empty());
        with_parts.map(|(upload, _)| *upload).collect()
    }

    pub fn remove_staged(&mut self, upload: u64, warehouse: &Warehouse) {
        if let Some(there) = self.uploads.remove(&upload) {
            assert!(
                !warehouse.is_committed(&there.path, upload),
                "a sweep removed what is committed: {}",
                there.path
            );
        }
    }

    pub fn abort(&mut self, upload: u64, warehouse: &Warehouse) {
        if let Some(upload_there) = self.uploads.remove(&upload) {
            assert!(
                !warehouse.is_committed(&upload_there.path, upload),
                "a committed upload was aborted: {}",
                upload_there.path
            );
        }
    }
}
