//! What the tasks of a topic have in common: services, a name, and a way to tell the driver.

use super::{driver::News, worker::Input};
use crate::{error::Error, record::Lane, source::kafka::Kafka, warehouse::postgres::Warehouse};
use std::sync::{Arc, mpsc::Sender};
use tokio::runtime::Handle;

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
