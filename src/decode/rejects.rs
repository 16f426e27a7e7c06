//! The rejects of one batch: at most one per record, the first that is told.

use super::{Reject, RejectClass};

pub struct Rejects {
    bad: Vec<bool>,
    list: Vec<Reject>,
}

impl Rejects {
    pub fn new(records: usize) -> Self {
        Self { bad: vec![false; records], list: vec![] }
    }

    /// Refuses a record, unless it is refused already; only then the sentence is made.
    #[cold]
    pub fn add(
        &mut self,
        record: usize,
        class: RejectClass,
        column: Option<&str>,
        reason: impl FnOnce() -> String,
    ) {
        if !self.bad[record] {
            self.bad[record] = true;
            let column = column.map(str::to_owned);
            self.list.push(Reject { record, class, column, reason: reason() });
        }
    }

    /// Of each record, whether it is refused.
    pub fn bad(&self) -> &[bool] {
        &self.bad
    }

    pub fn any(&self) -> bool {
        !self.list.is_empty()
    }

    /// In the order of the records.
    pub fn into_list(mut self) -> Vec<Reject> {
        self.list.sort_by_key(|reject| reject.record);
        self.list
    }
}
