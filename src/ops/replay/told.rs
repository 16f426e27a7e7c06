//! What a replay tells: how far it is, and what came of it.
//!
//! Owns: lines on the terminal, and the same as JSON. Does not own: any number in them.

use crate::{
    pipeline::rebuild::Progress,
    record::{EventTime, Fates, quantity::show_duration},
    warehouse::rebuild::{Change, Swapped},
};
use chrono::{DateTime, SecondsFormat};
use serde_json::json;
use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

const TELL_EVERY: Duration = Duration::from_secs(5);

pub fn tell_aborted(output: &str, dropped: bool, live: &str, json: bool) {
    match (json, dropped) {
        (true, _) => println!("{}", json!({ "output": output, "aborted": dropped })),
        (false, true) => {
            let stays =
                if live == "table" { "table is as it was" } else { "files are as they were" };
            println!("the rebuild of {output} is dropped; its live {stays}")
        }
        (false, false) => println!("no rebuild of {output} is under way"),
    }
}

/// How long it takes, in a dry run.
pub fn told_left(rate: Option<f64>, seconds: Option<f64>, done: &str, on_top: &str) {
    match (rate, seconds) {
        (Some(rate), Some(seconds)) => println!(
            "about {}, at {rate:.0} records/s read and {done} here just now; {on_top}",
            whole_seconds(seconds)
        ),
        (_, _) => println!("nothing is there to read"),
    }
}

/// As RFC 3339.
pub fn time(EventTime(micros): EventTime) -> String {
    match DateTime::from_timestamp_micros(micros) {
        Some(at) => at.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        None => format!("{micros} µs since 1970"),
    }
}

pub fn whole_seconds(seconds: f64) -> String {
    show_duration(Duration::from_secs(seconds.ceil().max(1.0) as u64))
}

pub fn tell_done(
    name: &str,
    change: Change,
    swapped: &Swapped,
    passed: u64,
    took: Duration,
    json: bool,
) {
    let Swapped { before, after, rows_written, rows_removed, replaced, widened: _ } = *swapped;
    let rate = passed as f64 / took.as_secs_f64().max(0.001);
    if json {
        let fates = |f: Fates| {
            json!({ "accepted": f.accepted, "filtered": f.filtered, "late": f.late, "dead": f.dead,
                    "absent": f.absent, "duplicate": f.duplicate })
        };
        let printed = json!({
            "output": format!("model:{name}"), "offsets": passed, "seconds": took.as_secs_f64(),
            "rows_written": rows_written, "rows_removed": rows_removed, "replaced": replaced, "new": change == Change::New,
            "before": fates(before), "after": fates(after),
        });
        println!("{}", serde_json::to_string_pretty(&printed).expect("texts and numbers"));
        return;
    }
    println!(
        "model:{name}: {passed} offsets in {} ({rate:.0}/s), swapped in",
        whole_seconds(took.as_secs_f64())
    );
    match replaced {
        true if change == Change::New => {
            println!(
                "its table is there now; a service goes on with it once it has started again or taken up its file (SIGHUP)"
            );
            return;
        }
        true => println!("its tables are those of the new definition"),
        false if rows_written + rows_removed == 0 => println!("every row is as it was"),
        false => println!("{rows_written} rows are others now, {rows_removed} are gone"),
    }
    for (fate, was, is) in [
        ("accepted", before.accepted, after.accepted),
        ("filtered", before.filtered, after.filtered),
        ("late", before.late, after.late),
        ("dead", before.dead, after.dead),
        ("duplicate", before.duplicate, after.duplicate),
    ] {
        if was != is {
            println!("{fate}: {was} before, {is} now");
        }
    }
}

/// One line on a terminal; elsewhere one every few seconds.
pub struct Shown {
    output: String,
    began: Instant,
    at_first: Option<u64>,
    /// Since the beginning of this process.
    pub passed: u64,
    told: Option<Instant>,
    terminal: bool,
}

impl Shown {
    pub fn new(output: String) -> Self {
        Self {
            output,
            began: Instant::now(),
            at_first: None,
            passed: 0,
            told: None,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    pub fn tell(&mut self, now: Progress) {
        let at_first = *self.at_first.get_or_insert(now.passed);
        self.passed = self.passed.max(now.passed.saturating_sub(at_first));
        let every = if self.terminal { Duration::from_millis(200) } else { TELL_EVERY };
        if self.told.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.told = Some(Instant::now());
        let rate = self.passed as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        let left = now.all.saturating_sub(now.passed);
        let time = match rate > 0.0 {
            true => format!(", about {} left", whole_seconds(left as f64 / rate)),
            false => String::new(),
        };
        let line =
            format!("{}: {} of {} offsets, {rate:.0}/s{time}", self.output, now.passed, now.all);
        match self.terminal {
            true => eprint!("\r\x1b[K{line}"),
            false => eprintln!("{line}"),
        }
        let _ = std::io::stderr().flush();
    }

    pub fn end(&self) {
        if self.terminal {
            eprintln!();
        }
    }
}
