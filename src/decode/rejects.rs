//! The records of one batch that give no row: rejects, at most one per record, the first that is
//! told; and what says nothing about a row.

use super::{Reject, RejectClass};

pub struct Rejects {
    bad: Vec<bool>,
    list: Vec<Reject>,
    empty: Vec<usize>,
}

impl Rejects {
    pub fn new(records: usize) -> Self {
        Self { bad: vec![false; records], list: vec![], empty: vec![] }
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

    /// The record has no row and is no reject: it says nothing about any.
    pub fn leave_out(&mut self, record: usize) {
        self.bad[record] = true;
        self.empty.push(record);
    }

    /// Of each record, whether it gives no row.
    pub fn bad(&self) -> &[bool] {
        &self.bad
    }

    pub fn any(&self) -> bool {
        !self.list.is_empty() || !self.empty.is_empty()
    }

    /// The rejects and the records left out, both in the order of the records.
    pub fn into_lists(mut self) -> (Vec<Reject>, Vec<usize>) {
        self.list.sort_by_key(|reject| reject.record);
        (self.list, self.empty)
    }
}
