//! What a topic's pipeline is made of, what reaches it, what its tasks need.
//!
//! Owns: no decision. A pipeline that ends to begin anew, with another topic or models, hands most of it on.

use super::{
    drift::{Known, Resolved},
    report::{OutputWatermark, TopicStatus},
    tables::References,
    worker::{Input, Settings, Ticket},
};
use crate::{
    catalog::{Catalog, Model, Topic},
    compute::unique::Memory,
    decode::Secret,
    error::Error,
    lake::{store::Store, writer::WriterSettings},
    record::{EventTime, Lane, Offset, Partition},
    source::kafka::{self, Kafka},
    warehouse::{Taken, postgres::Warehouse},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender},
    },
};
use tokio::{runtime::Handle, sync::oneshot};

/// What reaches a topic from outside.
pub enum News {
    Group(kafka::News),
    Worker(Input),
    /// Partitions are taken: what the worker hears as `Input::Taken`, and what the judge goes on from.
    Taken {
        lane: Lane,
        ticket: Ticket,
        taken: Taken,
        memory: Memory,
    },
    /// A cut of the tables is committed, and has met keys of others on its way.
    Committed {
        cut: u64,
        learned: Memory,
    },
    /// Event time of a judged topic's partitions, of other processes too.
    Reached(Vec<(Partition, EventTime)>),
    /// An answer of PostgreSQL's; None: there was none.
    Watermarks(Option<Vec<OutputWatermark>>),
    /// What follows from a table of the source that was met; or why that is not known yet.
    Drift(Result<Box<Resolved>, String>),
    /// Other files are to be gone on with: told when all before them is committed, and answered with `Drift`.
    Change(oneshot::Sender<()>),
    /// The lake's encoder takes batches again.
    Room,
    Halt(String),
    Drain,
}

/// What tasks of a topic need.
#[derive(Clone)]
pub struct Context {
    pub runtime: Handle,
    pub kafka: Arc<Kafka>,
    pub warehouse: Warehouse,
    /// Name of this life of the process, for people who look at the marks.
    pub owner: Arc<str>,
    pub news: Sender<News>,
}

impl Context {
    pub fn tell(&self, news: News) {
        // A topic that ended needs no news.
        let _ = self.news.send(news);
    }

    pub fn fail(&self, lane: Lane, cut: u64, error: &Error) {
        let (kind, why) = (error.kind, error.to_string());
        self.tell(News::Worker(Input::Failed { lane, cut, kind, why }));
    }
}

/// What a topic's pipeline is made of.
pub struct Parts {
    pub topic: Arc<Topic>,
    pub models: Vec<Arc<Model>>,
    /// What is known of the source's tables.
    pub known: Known,
    pub lasting: Lasting,
    pub inbox: Receiver<News>,
    /// Of a pipeline that goes on from another: what the group has assigned.
    pub assigned: BTreeSet<Partition>,
    /// Of the same: its next cut and claim, so that late answers to it are known as such.
    pub numbers: Option<(u64, Ticket)>,
}

/// What stays when the pipeline begins anew.
#[derive(Clone)]
pub struct Lasting {
    pub catalog: Arc<Catalog>,
    /// Loaded already, each that a model joins.
    pub references: References,
    pub secret: Option<Secret>,
    pub store: Option<Store>,
    pub worker: Settings,
    /// Bytes for the keys that `unique` remembers.
    pub keys_memory: usize,
    pub writer: WriterSettings,
    pub context: Context,
    /// Where the snapshot for `/status` goes.
    pub status: Arc<Mutex<Option<TopicStatus>>>,
    /// Commit up to these and stop reading.
    pub targets: Option<BTreeMap<Partition, Offset>>,
}
