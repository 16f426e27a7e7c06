//! How the process's memory is divided, and kept small.

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

/// Budgets below this are worth some CPU.
const SMALL: usize = 256 << 20;

/// With a small budget has freed buffers given back to the system. By itself glibc keeps what was freed of
/// buffers up to 32 MiB (see mallopt(3), dynamic threshold): faster by 5 %, and a quarter of the job's peak.
pub fn spare(memory: usize) {
    if memory < SMALL {
        // SAFETY: two numbers of the allocator's.
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
            libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 20);
        }
    }
}
