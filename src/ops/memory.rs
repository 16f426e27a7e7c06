//! How the process's memory is divided.

/// What each topic may hold of it.
pub struct Shares {
    pub fetch: usize,
    pub tables: usize,
    pub keys: usize,
    pub lake: usize,
}

/// A process that does nothing: code, plans, connections, what the allocator keeps.
const IDLE_BYTES: usize = 84 << 20;

impl Shares {
    /// What remains is for what is made of them: a response of Kafka's beside the queue, the cut that is being
    /// committed beside the open one, batches under way.
    pub fn of(memory: usize, topics: usize) -> Self {
        let topic = memory.saturating_sub(IDLE_BYTES) / topics.max(1);
        Self { fetch: topic / 12, tables: topic / 6, keys: topic / 4, lake: topic / 6 }
    }
}
