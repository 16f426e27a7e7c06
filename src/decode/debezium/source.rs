//! What an event says of its source: when, whether of a snapshot, where in the log.
//!
//! Owns: the position as text that sorts. Does not own: where in an event all this stands (`mod`).

use crate::decode::{
    change::{SnapshotRead, micros},
    scan::{plain, there},
};
use std::fmt::Write;

/// What a member of the source is.
#[derive(Clone, Copy)]
pub enum Told {
    TimeUs,
    TimeMs,
    Snapshot,
    Lsn,
    Sequence,
    File,
    Pos,
    Row,
    CommitLsn,
    ChangeLsn,
    Serial,
    Scn,
    Unknown,
}

/// What an event says of where it comes from.
#[derive(Default)]
pub struct Source<'a> {
    time_us: Option<i64>,
    time_ms: Option<i64>,
    pub snapshot: Option<SnapshotRead>,
    pub place: Place<'a>,
}

/// Where a change stands in the source's log, in the words of its connector.
#[derive(Default)]
pub struct Place<'a> {
    lsn: Option<u64>,
    sequence: Option<&'a str>,
    file: Option<&'a str>,
    pos: Option<u64>,
    row: Option<u64>,
    commit_lsn: Option<&'a str>,
    change_lsn: Option<&'a str>,
    serial: Option<u64>,
    scn: Option<u128>,
}

impl Told {
    pub fn of(name: &str) -> Self {
        match name {
            "ts_us" => Self::TimeUs,
            "ts_ms" => Self::TimeMs,
            "snapshot" => Self::Snapshot,
            "lsn" => Self::Lsn,
            "sequence" => Self::Sequence,
            "file" => Self::File,
            "pos" => Self::Pos,
            "row" => Self::Row,
            "commit_lsn" => Self::CommitLsn,
            "change_lsn" => Self::ChangeLsn,
            "event_serial_no" => Self::Serial,
            "scn" => Self::Scn,
            _ => Self::Unknown,
        }
    }
}

impl<'a> Source<'a> {
    pub fn note(&mut self, member: Told, raw: &'a str) {
        let text = || there(raw).map(plain);
        let number = || text().and_then(|text| text.parse::<u64>().ok());
        let place = &mut self.place;
        match member {
            Told::TimeUs => self.time_us = raw.parse().ok(),
            Told::TimeMs => self.time_ms = micros(raw, 1_000),
            Told::Snapshot => self.snapshot = snapshot_read(raw),
            Told::Lsn => place.lsn = number(),
            Told::Sequence => place.sequence = text(),
            Told::File => place.file = text(),
            Told::Pos => place.pos = number(),
            Told::Row => place.row = number(),
            Told::CommitLsn => place.commit_lsn = text(),
            Told::ChangeLsn => place.change_lsn = text(),
            Told::Serial => place.serial = number(),
            Told::Scn => place.scn = text().and_then(|text| text.parse().ok()),
            Told::Unknown => {}
        }
    }

    /// Microseconds since 1970, by the finest that is told.
    pub fn time(&self) -> Option<i64> {
        self.time_us.or(self.time_ms)
    }
}

impl Place<'_> {
    /// As text that ascends byte by byte: PostgreSQL's LSN, the binlog file and position of MySQL and
    /// MariaDB, SQL Server's LSNs, Oracle's SCN.
    pub fn position(&self, mut out: String) -> Option<String> {
        // An incremental snapshot has no LSN of its own; `sequence` tells where the log stood then:
        // `["committed","current"]`, as a string.
        let lsn = self.lsn.or_else(|| {
            let last =
                self.sequence?.trim_end_matches([']', '"', '\\']).rsplit(['"', ',']).next()?;
            last.trim_end_matches('\\').parse::<u64>().ok()
        });
        if let Some(lsn) = lsn {
            twenty_digits(lsn, &mut out);
        } else if let (Some(file), Some(pos)) = (self.file, self.pos) {
            let number: u64 = file.rsplit('.').next()?.parse().ok()?;
            let _ = write!(out, "{number:012}:{pos:020}:{:010}", self.row.unwrap_or(0));
        } else if let Some(commit) = self.commit_lsn {
            let change = self.change_lsn.unwrap_or_default();
            let _ = write!(out, "{commit}:{change}:{:010}", self.serial.unwrap_or(0));
        } else {
            let _ = write!(out, "{:039}", self.scn?);
        }
        Some(out)
    }
}

/// `first` and `last` are of everything that the connector reads, the others of one table. A table of one
/// row is told by its end alone. What is none of these is no snapshot.
fn snapshot_read(raw: &str) -> Option<SnapshotRead> {
    match plain(raw) {
        "true" | "first" | "first_in_data_collection" => Some(SnapshotRead::Row),
        "last" | "last_in_data_collection" => Some(SnapshotRead::Last),
        "incremental" => Some(SnapshotRead::Incremental),
        _ => None,
    }
}

/// With zeros in front. By hand: each change of PostgreSQL's has one.
fn twenty_digits(mut number: u64, out: &mut String) {
    let mut digits = [b'0'; 20];
    for digit in digits.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    out.push_str(std::str::from_utf8(&digits).expect("digits"));
}
