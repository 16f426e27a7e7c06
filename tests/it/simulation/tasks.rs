//! What a process waits for: takes, uploads, commits, publications, in the steps of
//! `pipeline::driver::take`, `pipeline::encoder` and `warehouse`. Each step is one request, which
//! lands at its server and is answered, or does only one of the two, or lands after the answer.

use super::{
    process::{News, Process},
    servers::{Commit, File, Life, Out, Place},
    world::{Event, World},
};
use highwater::{
    compute::unique::Memory,
    error::Kind,
    pipeline::worker::{Input, Ticket},
    record::{
        EventTime, Lane, Offset, Partition,
        gap::{self, PartitionLog, Reason},
    },
    warehouse::Taken,
};
use rand::Rng;
use std::collections::{BTreeMap, VecDeque};

pub type TaskId = u64;

#[derive(Debug)]
pub struct Task {
    pub life: Life,
    pub work: Work,
}

#[derive(Debug)]
pub enum Work {
    Take(Take),
    Tidy(Tidy),
    Commit { cut: u64 },
    Ends { at: EventTime },
    Upload(Upload),
    Publish(Publish),
}

#[derive(Debug)]
pub struct Take {
    lane: Lane,
    ticket: Ticket,
    partitions: Vec<i32>,
    outputs: Vec<Out>,
    taken: Taken,
    step: TakeStep,
}

/// The request that is under way.
#[derive(Debug)]
enum TakeStep {
    Logs,
    Take,
    LookTwice,
    Recall,
    Unfinished,
}

/// Beside the cuts that follow a take: what owners before left.
#[derive(Debug)]
pub struct Tidy {
    files: Vec<File>,
    step: TidyStep,
}

#[derive(Debug)]
enum TidyStep {
    Complete { left: Vec<File> },
    Completed,
    Wait,
    Abandoned,
    Abort { left: Vec<u64>, all: Vec<u64> },
    Forget,
}

/// One file's upload: its parts go in order.
#[derive(Debug)]
pub struct Upload {
    cut: u64,
    noted_for: (i32, i64),
    file: File,
    noted: bool,
    parts: VecDeque<Vec<Place>>,
    busy: bool,
    /// No more parts come: when these are put, this publication goes on.
    sealed: Option<TaskId>,
}

impl Upload {
    pub fn new(cut: u64, path: String, noted_for: (i32, i64)) -> Self {
        let parts = VecDeque::new();
        let file = File::new(path);
        Self { cut, noted_for, file, noted: false, parts, busy: false, sealed: None }
    }
}

#[derive(Debug)]
pub struct Publish {
    /// None: it is on its way.
    commit: Option<Box<Commit>>,
    cut: u64,
    uploads: Vec<TaskId>,
    files: Vec<File>,
    step: PublishStep,
}

#[derive(Debug)]
enum PublishStep {
    Upload,
    Commit,
    Complete(usize),
    Completed,
    Wait,
}

#[derive(Debug, Default)]
pub struct Tasks {
    tasks: BTreeMap<TaskId, Task>,
    next: TaskId,
}

impl Tasks {
    pub fn add(&mut self, task: Task) -> TaskId {
        self.next += 1;
        self.tasks.insert(self.next, task);
        self.next
    }

    pub fn remove(&mut self, id: TaskId) -> Option<Task> {
        self.tasks.remove(&id)
    }

    pub fn end(&mut self, life: Life) {
        self.tasks.retain(|_, task| task.life != life);
    }

    pub fn life(&self, id: TaskId) -> Option<Life> {
        self.tasks.get(&id).map(|task| task.life)
    }
}

#[derive(Debug, Clone)]
pub enum Request {
    Logs(Vec<i32>),
    Ends {
        partitions: Vec<i32>,
    },
    Take {
        life: Life,
        outputs: Vec<Out>,
        lane: Lane,
        logs: Logs,
    },
    Commit(Box<Commit>),
    /// The keys and verdicts of a judged topic.
    Recall {
        partitions: Vec<i32>,
    },
    Unfinished,
    Completed(Vec<String>),
    Abandoned,
    Forget(Vec<u64>),
    Note {
        upload: u64,
        path: String,
        partition: i32,
        epoch: i64,
    },
    Begin {
        path: String,
    },
    Put {
        upload: u64,
        number: usize,
        rows: Vec<Place>,
    },
    Complete(File),
    Abort(u64),
}

#[derive(Debug)]
pub enum Answer {
    Done,
    Logs(Logs),
    Taken(Taken),
    Ends(Vec<(Partition, Offset)>),
    Files(Vec<File>),
    Uploads(Vec<u64>),
    Upload(u64),
    Memory(Memory),
    Committed(Memory, Vec<(Partition, EventTime)>),
}

type Logs = Vec<(i32, PartitionLog)>;

pub type Reply = Result<Answer, (Kind, String)>;

#[derive(Debug, Clone, Copy)]
enum Service {
    Kafka,
    Warehouse,
    Store,
}

impl Request {
    fn service(&self) -> Service {
        match self {
            Self::Logs(_) | Self::Ends { .. } => Service::Kafka,
            Self::Take { .. }
            | Self::Commit(_)
            | Self::Recall { .. }
            | Self::Unfinished
            | Self::Completed(_)
            | Self::Abandoned
            | Self::Forget(_)
            | Self::Note { .. } => Service::Warehouse,
            Self::Begin { .. } | Self::Put { .. } | Self::Complete(_) | Self::Abort(_) => {
                Service::Store
            }
        }
    }

    /// What its sender makes of no answer.
    fn unanswered(&self) -> (Kind, String) {
        let kind = match self {
            Self::Commit(_) | Self::Complete(_) => Kind::Unknown,
            Self::Logs(_)
            | Self::Ends { .. }
            | Self::Take { .. }
            | Self::Recall { .. }
            | Self::Unfinished
            | Self::Completed(_)
            | Self::Abandoned
            | Self::Forget(_)
            | Self::Note { .. }
            | Self::Begin { .. }
            | Self::Put { .. }
            | Self::Abort(_) => Kind::Retry,
        };
        (kind, "no answer".to_owned())
    }
}

impl World {
    /// Sends a request, to the fate that this seed has for it.
    fn send(&mut self, task: TaskId, request: Request) {
        let there = self.latency();
        let back = there + self.latency();
        if !self.request_fails() {
            return self
                .after(there, Event::Land { task, request, back: Some(back), stray: false });
        }
        let refused = Err(request.unanswered());
        match self.rng.random_range(0..4) {
            // Never lands, and the sender may even know it.
            0 => {
                let refused = Err((Kind::Retry, "not sent".to_owned()));
                self.after(back, Event::Reply { task, reply: refused });
            }
            1 => self.after(back, Event::Reply { task, reply: refused }),
            // Lands; the answer is lost.
            2 => {
                self.after(there, Event::Land { task, request, back: None, stray: false });
                self.after(back, Event::Reply { task, reply: refused });
            }
            // Lands when the sender has given up on it.
            _ => {
                self.after(there, Event::Reply { task, reply: refused });
                let later = back + self.rng.random_range(0..2_000_000);
                self.after(later, Event::Land { task, request, back: None, stray: true });
            }
        }
    }

    pub fn land(&mut self, task: TaskId, request: Request, back: Option<u64>, stray: bool) {
        let away = match request.service() {
            Service::Kafka => self.kafka_away_until,
            Service::Warehouse => self.warehouse_away_until,
            Service::Store => self.store_away_until,
        };
        let reply = if self.now < away {
            Err((Kind::Retry, "away".to_owned()))
        } else {
            self.perform(request, stray)
        };
        if let Some(back) = back {
            self.after(back, Event::Reply { task, reply });
        }
    }

    fn perform(&mut self, request: Request, stray: bool) -> Reply {
        Ok(match request {
            Request::Logs(partitions) => {
                let log = |p: i32| (p, self.logs[p as usize].told());
                Answer::Logs(partitions.into_iter().map(log).collect())
            }
            Request::Ends { partitions } => {
                let end = |p: i32| (Partition(p), Offset(self.logs[p as usize].end()));
                let mut ends: Vec<_> = partitions.into_iter().map(end).collect();
                // A leader that is out of reach.
                ends.retain(|_| !self.chance(0.1));
                Answer::Ends(ends)
            }
            Request::Take { life, outputs, lane, logs } => {
                let taken = self.warehouse.take(life, &outputs, lane, &logs, stray);
                self.trace(|| format!("server: life {life} took {lane:?} {logs:?}: {taken:?}"));
                Answer::Taken(taken)
            }
            Request::Commit(commit) => {
                let given_up = self.given_up.contains(&(commit.life, commit.lane, commit.cut));
                let done = self.warehouse.commit(&commit, &self.logs, given_up);
                self.trace(|| {
                    format!("server: life {} commits cut {}: {done:?}", commit.life, commit.cut)
                });
                Answer::Committed(done?, self.warehouse.reached())
            }
            Request::Recall { partitions } => {
                let oldest: Vec<_> =
                    partitions.iter().map(|p| (*p, self.logs[*p as usize].oldest)).collect();
                Answer::Memory(self.warehouse.recall(&oldest))
            }
            Request::Unfinished => Answer::Files(self.warehouse.unfinished()),
            Request::Completed(paths) => {
                self.warehouse.completed(&paths, &self.bucket);
                Answer::Done
            }
            Request::Abandoned => Answer::Uploads(self.warehouse.abandoned()),
            Request::Forget(uploads) => {
                self.warehouse.forget(&uploads);
                Answer::Done
            }
            Request::Note { upload, path, partition, epoch } => {
                self.warehouse.note(upload, &path, partition, epoch);
                Answer::Done
            }
            Request::Begin { path } => Answer::Upload(self.bucket.begin(&path)),
            Request::Put { upload, number, rows } => {
                let put = self.bucket.put(upload, number, &rows);
                put.map_err(|kind| (kind, "the upload was aborted meanwhile".to_owned()))?;
                Answer::Done
            }
            Request::Complete(file) => {
                self.bucket.complete(&file, &self.warehouse);
                self.trace(|| format!("server: {} is visible", file.path));
                Answer::Done
            }
            Request::Abort(upload) => {
                self.bucket.abort(upload, &self.warehouse);
                Answer::Done
            }
        })
    }

    /// An answer reaches its task, unless the task or its process is gone.
    pub fn reply(&mut self, p: &mut Process, id: TaskId, reply: Reply) {
        let Some(Task { life, work }) = self.tasks.remove(id) else { return };
        let left = match work {
            Work::Take(take) => self.take_goes_on(p, id, take, reply),
            Work::Tidy(tidy) => self.tidy_goes_on(p, id, tidy, reply).map(Work::Tidy),
            Work::Commit { cut } => {
                match reply {
                    Ok(Answer::Committed(learned, reached)) => {
                        p.inbox.push_back(News::Committed { cut, learned });
                        p.inbox.push_back(News::Reached(reached));
                    }
                    Ok(answer) => panic!("{answer:?} does not answer a commit"),
                    Err((kind, why)) => {
                        tell(p, Input::Failed { lane: Lane::Tables, cut, kind, why });
                    }
                }
                None
            }
            Work::Ends { at } => {
                let ends = match reply {
                    Ok(Answer::Ends(ends)) => ends,
                    Ok(_) | Err(_) => Vec::new(),
                };
                tell(p, Input::Ends { at, ends });
                None
            }
            Work::Upload(upload) => self.upload_goes_on(p, id, upload, reply).map(Work::Upload),
            Work::Publish(publish) => {
                self.publish_goes_on(p, id, publish, reply).map(Work::Publish)
            }
        };
        if let Some(work) = left {
            self.tasks.put_back(id, Task { life, work });
        }
    }

    pub fn start_ends(&mut self, life: Life, at: EventTime, partitions: Vec<i32>) {
        let id = self.tasks.add(Task { life, work: Work::Ends { at } });
        self.send(id, Request::Ends { partitions });
    }

    pub fn start_take(
        &mut self,
        life: Life,
        lane: Lane,
        ticket: Ticket,
        partitions: Vec<i32>,
        outputs: Vec<Out>,
    ) {
        let step = TakeStep::Logs;
        let asked = Request::Logs(partitions.clone());
        let take = Take { lane, ticket, partitions, outputs, taken: Taken::default(), step };
        let id = self.tasks.add(Task { life, work: Work::Take(take) });
        self.send(id, asked);
    }

    fn take_goes_on(
        &mut self,
        p: &mut Process,
        id: TaskId,
        mut take: Take,
        reply: Reply,
    ) -> Option<Work> {
        let (lane, ticket) = (take.lane, take.ticket);
        let answer = match reply {
            Ok(answer) => answer,
            Err((kind, why)) => {
                tell(p, Input::TakeFailed { lane, ticket, kind, why });
                return None;
            }
        };
        match (std::mem::replace(&mut take.step, TakeStep::Logs), answer) {
            (TakeStep::Logs, Answer::Logs(logs)) => {
                take.step = TakeStep::Take;
                let outputs = take.outputs.clone();
                self.send(id, Request::Take { life: p.life, outputs, lane, logs });
            }
            (TakeStep::Take, Answer::Taken(taken)) => {
                take.taken = taken;
                if !take.taken.gaps.is_empty() {
                    take.step = TakeStep::LookTwice;
                    let standing = take.taken.gaps.iter().map(|gap| gap.partition.0).collect();
                    self.send(id, Request::Logs(standing));
                    return Some(Work::Take(take));
                }
                return self.taken(id, take);
            }
            (TakeStep::LookTwice, Answer::Logs(logs)) => {
                for gap in &mut take.taken.gaps {
                    let log = logs.iter().find(|(p, _)| *p == gap.partition.0);
                    gap.log = log.expect("asked for").1;
                    let Some(reason) = gap::judge(gap.next, None, &gap.log) else {
                        let why = "the mark moved".to_owned();
                        tell(p, Input::TakeFailed { lane, ticket, kind: Kind::Retry, why });
                        return None;
                    };
                    assert_eq!(reason, Reason::Retention, "no log ends below a mark: {gap:?}");
                    gap.reason = reason;
                }
                return self.taken(id, take);
            }
            (TakeStep::Recall, Answer::Memory(memory)) => {
                p.inbox.push_back(News::Taken { lane, ticket, taken: take.taken, memory });
                return None;
            }
            (TakeStep::Unfinished, Answer::Files(files)) => {
                tell_taken(p, take);
                p.owed += 1;
                let step = self.complete_next(id, files.clone(), &files);
                return Some(Work::Tidy(Tidy { files, step }));
            }
            (step, answer) => panic!("{answer:?} does not answer {step:?}"),
        }
        Some(Work::Take(take))
    }

    /// Of the tables: what the judge has to know; of the lake: what owners before left.
    fn taken(&mut self, id: TaskId, mut take: Take) -> Option<Work> {
        if take.lane == Lane::Tables {
            take.step = TakeStep::Recall;
            self.send(id, Request::Recall { partitions: take.partitions.clone() });
            return Some(Work::Take(take));
        }
        take.step = TakeStep::Unfinished;
        self.send(id, Request::Unfinished);
        Some(Work::Take(take))
    }

    fn tidy_goes_on(
        &mut self,
        p: &mut Process,
        id: TaskId,
        mut tidy: Tidy,
        reply: Reply,
    ) -> Option<Tidy> {
        tidy.step = match (tidy.step, reply) {
            // Owed, for as long as it takes.
            (TidyStep::Complete { .. } | TidyStep::Completed, Err(_)) => {
                let wait = self.rng.random_range(20_000..200_000);
                self.after(wait, Event::Reply { task: id, reply: Ok(Answer::Done) });
                TidyStep::Wait
            }
            (TidyStep::Wait, _) => self.complete_next(id, tidy.files.clone(), &tidy.files),
            (TidyStep::Complete { left }, Ok(_)) => self.complete_next(id, left, &tidy.files),
            (TidyStep::Completed, Ok(_)) => {
                self.send(id, Request::Abandoned);
                TidyStep::Abandoned
            }
            (TidyStep::Abandoned, Ok(Answer::Uploads(all))) => {
                self.abort_next(id, all.clone(), all)
            }
            (TidyStep::Abort { left, all }, Ok(_)) => self.abort_next(id, left, all),
            // The next take comes by here again.
            (TidyStep::Forget, _) | (TidyStep::Abandoned | TidyStep::Abort { .. }, Err(_)) => {
                p.owed -= 1;
                return None;
            }
            (step, answer) => panic!("{answer:?} does not answer {step:?}"),
        };
        Some(tidy)
    }

    fn complete_next(&mut self, id: TaskId, mut left: Vec<File>, files: &[File]) -> TidyStep {
        match left.pop() {
            Some(file) => {
                self.send(id, Request::Complete(file));
                TidyStep::Complete { left }
            }
            None => {
                let paths = files.iter().map(|file| file.path.clone()).collect();
                self.send(id, Request::Completed(paths));
                TidyStep::Completed
            }
        }
    }

    fn abort_next(&mut self, id: TaskId, mut left: Vec<u64>, all: Vec<u64>) -> TidyStep {
        match left.pop() {
            Some(upload) => {
                self.send(id, Request::Abort(upload));
                TidyStep::Abort { left, all }
            }
            None => {
                self.send(id, Request::Forget(all));
                TidyStep::Forget
            }
        }
    }

    pub fn start_commit(&mut self, commit: Commit) {
        let work = Work::Commit { cut: commit.cut };
        let id = self.tasks.add(Task { life: commit.life, work });
        self.send(id, Request::Commit(Box::new(commit)));
    }

    pub fn put_part(&mut self, id: TaskId, rows: Vec<Place>) {
        // Failed a moment ago: the worker will hear of it and abandon.
        let Some(Task { life, work: Work::Upload(mut upload) }) = self.tasks.remove(id) else {
            return;
        };
        upload.parts.push_back(rows);
        self.upload_next(id, &mut upload);
        self.tasks.put_back(id, Task { life, work: Work::Upload(upload) });
    }

    fn upload_next(&mut self, id: TaskId, upload: &mut Upload) {
        if upload.busy {
            return;
        }
        let Some(rows) = upload.parts.front() else { return };
        let path = upload.file.path.clone();
        let request = match (upload.file.upload, upload.noted) {
            (0, _) => Request::Begin { path },
            (upload_id, false) => {
                let (partition, epoch) = upload.noted_for;
                Request::Note { upload: upload_id, path, partition, epoch }
            }
            (upload_id, true) => {
                Request::Put { upload: upload_id, number: upload.file.parts, rows: rows.clone() }
            }
        };
        upload.busy = true;
        self.send(id, request);
    }

    fn upload_goes_on(
        &mut self,
        p: &mut Process,
        id: TaskId,
        mut upload: Upload,
        reply: Reply,
    ) -> Option<Upload> {
        upload.busy = false;
        match reply {
            Err((kind, why)) => {
                tell(p, Input::Failed { lane: Lane::Lake, cut: upload.cut, kind, why });
                // The publication fails with its first upload; the others end with it.
                if let Some(Task { work: Work::Publish(publish), .. }) =
                    upload.sealed.and_then(|publication| self.tasks.remove(publication))
                {
                    for other in publish.uploads {
                        self.tasks.remove(other);
                    }
                }
                return None;
            }
            Ok(Answer::Upload(begun)) => upload.file.upload = begun,
            Ok(_) if !upload.noted => upload.noted = true,
            Ok(_) => {
                let rows = upload.parts.pop_front().expect("a part was put");
                upload.file.rows.extend(rows);
                upload.file.parts += 1;
            }
        }
        if let (true, Some(publication)) = (upload.parts.is_empty(), upload.sealed) {
            self.uploaded(publication, id, upload.file);
            return None;
        }
        self.upload_next(id, &mut upload);
        Some(upload)
    }

    pub fn start_publication(&mut self, commit: Commit, open: Vec<(TaskId, Vec<Place>)>) {
        let (life, cut) = (commit.life, commit.cut);
        let publish = Publish {
            commit: Some(Box::new(commit)),
            cut,
            uploads: open.iter().map(|(task, _)| *task).collect(),
            files: Vec::new(),
            step: PublishStep::Upload,
        };
        let id = self.tasks.add(Task { life, work: Work::Publish(publish) });
        let mut done = Vec::new();
        for (task, rows) in open {
            let Some(Task { life, work: Work::Upload(mut upload) }) = self.tasks.remove(task)
            else {
                // It failed and has said so.
                self.tasks.remove(id);
                continue;
            };
            upload.sealed = Some(id);
            if !rows.is_empty() {
                upload.parts.push_back(rows);
            }
            if upload.parts.is_empty() && !upload.busy {
                done.push((task, upload.file));
                continue;
            }
            self.upload_next(task, &mut upload);
            self.tasks.put_back(task, Task { life, work: Work::Upload(upload) });
        }
        for (task, file) in done {
            self.uploaded(id, task, file);
        }
        self.commit_when_uploaded(id);
    }

    fn uploaded(&mut self, publication: TaskId, task: TaskId, file: File) {
        let Some(Task { work: Work::Publish(publish), .. }) = self.tasks.get(publication) else {
            return;
        };
        publish.uploads.retain(|upload| *upload != task);
        publish.files.push(file);
        self.commit_when_uploaded(publication);
    }

    fn commit_when_uploaded(&mut self, id: TaskId) {
        let Some(Task { work: Work::Publish(publish), .. }) = self.tasks.get(id) else { return };
        if publish.uploads.is_empty()
            && let Some(mut commit) = publish.commit.take()
        {
            publish.step = PublishStep::Commit;
            publish.files.sort_by(|a, b| a.path.cmp(&b.path));
            commit.files.clone_from(&publish.files);
            self.send(id, Request::Commit(commit));
        }
    }

    fn publish_goes_on(
        &mut self,
        p: &mut Process,
        id: TaskId,
        mut publish: Publish,
        reply: Reply,
    ) -> Option<Publish> {
        let failed = reply.is_err();
        match publish.step {
            PublishStep::Upload => panic!("uploads are answered to themselves"),
            PublishStep::Commit => {
                tell(p, done(Lane::Lake, publish.cut, reply));
                if failed {
                    return None;
                }
                p.owed += 1;
                publish.step = PublishStep::Complete(0);
            }
            // Owed, for as long as it takes.
            PublishStep::Complete(_) | PublishStep::Completed if failed => {
                publish.step = PublishStep::Wait;
                let wait = self.rng.random_range(20_000..200_000);
                self.after(wait, Event::Reply { task: id, reply: Ok(Answer::Done) });
                return Some(publish);
            }
            PublishStep::Complete(index) => publish.step = PublishStep::Complete(index + 1),
            PublishStep::Wait => publish.step = PublishStep::Complete(0),
            PublishStep::Completed => {
                p.owed -= 1;
                return None;
            }
        }
        let PublishStep::Complete(index) = publish.step else { return None };
        match publish.files.get(index) {
            Some(file) => self.send(id, Request::Complete(file.clone())),
            None => {
                publish.step = PublishStep::Completed;
                let paths = publish.files.iter().map(|file| file.path.clone()).collect();
                self.send(id, Request::Completed(paths));
            }
        }
        Some(publish)
    }
}

impl Tasks {
    fn put_back(&mut self, id: TaskId, task: Task) {
        self.tasks.insert(id, task);
    }

    fn get(&mut self, id: TaskId) -> Option<&mut Task> {
        self.tasks.get_mut(&id)
    }
}

fn tell_taken(p: &mut Process, take: Take) {
    let Take { lane, ticket, taken: Taken { marks, gaps, advances, .. }, .. } = take;
    tell(p, Input::Taken { lane, ticket, marks, gaps, advances });
}

fn tell(p: &mut Process, input: Input) {
    p.inbox.push_back(News::Worker(input));
}

fn done(lane: Lane, cut: u64, reply: Reply) -> Input {
    match reply {
        Ok(_) => Input::Committed { lane, cut },
        Err((kind, why)) => Input::Failed { lane, cut, kind, why },
    }
}
