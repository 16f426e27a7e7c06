//! Processes that are looked at while they run: the service, and those of PostgreSQL.
//!
//! Owns: their CPU up to now, as the kernel counts it in ticks of 10 ms; the end of the service.

use crate::world::resident_bytes_max;
use std::{
    path::PathBuf,
    process::{Child, Command},
    time::Instant,
};

/// A running service; killed with this.
pub struct Running {
    child: Child,
    pub started: Instant,
    log: PathBuf,
}

impl Running {
    pub fn start(mut command: Command, log: PathBuf) -> Self {
        let file = std::fs::File::create(&log).expect("a log");
        command.stdout(file.try_clone().expect("a log")).stderr(file);
        let started = Instant::now();
        Self { child: command.spawn().expect("the binary starts"), started, log }
    }

    /// User and system.
    pub fn cpu_seconds(&self) -> f64 {
        Used::by(self.child.id()).map_or(0.0, |used| used.own)
    }

    pub fn resident_mib_max(&self) -> f64 {
        resident_bytes_max(self.child.id() as libc::pid_t) as f64 / 1_048_576.0
    }

    /// Fails, with what it said, if it has ended.
    pub fn insist(&mut self) {
        if let Some(status) = self.child.try_wait().expect("our own child") {
            panic!("highwater run ended with {status}:\n{}", self.said());
        }
    }

    /// Told to, as a system does that stops.
    pub fn end(mut self) {
        self.insist();
        // SAFETY: a signal to our own child, which is not waited for yet.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let status = self.child.wait().expect("our own child");
        assert!(status.success(), "highwater run ended with {status}:\n{}", self.said());
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of `/proc/PID/stat`.
struct Used {
    name: String,
    parent: u32,
    own: f64,
    /// Of children that have ended.
    ended: f64,
}

impl Used {
    /// None: there is no such process (any more).
    fn by(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (before, after) = stat.rsplit_once(')')?;
        let name = before.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = after.split_whitespace().collect();
        // SAFETY: asks for a constant of the system.
        let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
        let number = |i: usize| fields[i].parse::<f64>().expect("a number");
        let parent = fields[1].parse().expect("a number");
        let (own, ended) = (number(11) + number(12), number(13) + number(14));
        Some(Self { name, parent, own: own / ticks, ended: ended / ticks })
    }
}

/// CPU of all of PostgreSQL's processes up to now, given one of them; None: it runs elsewhere.
pub fn postgres_cpu_seconds(backend: u32) -> Option<f64> {
    let parent = Used::by(backend).filter(|used| used.name.contains("postgres"))?.parent;
    let server = Used::by(parent).filter(|used| used.name.contains("postgres"))?;
    let numbers = std::fs::read_dir("/proc").ok()?.flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let children = numbers.filter_map(Used::by).filter(|used| used.parent == parent);
    Some(server.own + server.ended + children.map(|child| child.own).sum::<f64>())
}
