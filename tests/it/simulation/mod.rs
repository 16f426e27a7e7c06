//! The whole worker in a world of maps, one thread, by seed.

mod group;
mod process;
mod servers;
mod tasks;
mod world;

use std::{cell::RefCell, collections::VecDeque, panic::AssertUnwindSafe};
use world::{Tally, Trace, World};

const SEEDS: u64 = 10_000;
/// Steps in the failure text.
const SHOWN: usize = 120;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

fn outcome(seed: u64, trace: Option<Trace>) -> Result<Tally, String> {
    let run = AssertUnwindSafe(|| World::new(seed, trace).run());
    std::panic::catch_unwind(run).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
    })
}

/// Runs a seed; a failure is run again to tell its last steps.
fn run(seed: u64) -> Tally {
    let why = match outcome(seed, None) {
        Ok(tally) => return tally,
        Err(why) => why,
    };
    let trace = Trace::new(RefCell::new(VecDeque::new()));
    let again = outcome(seed, Some(trace.clone())).expect_err("a seed runs alike each time");
    let trace = trace.borrow();
    let last: Vec<_> = trace.iter().skip(trace.len().saturating_sub(SHOWN)).cloned().collect();
    assert_eq!(why, again, "a seed runs alike each time");
    panic!("HIGHWATER_SIM_SEED={seed} replays it: {why}\nlast steps:\n{}", last.join("\n"));
}

#[test]
fn every_record_is_applied_once_whatever_goes_wrong() {
    let seeds = match number("HIGHWATER_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HIGHWATER_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let mut sum = Tally::default();
    let started = std::time::Instant::now();
    for seed in seeds.clone() {
        sum += run(seed);
    }
    println!("{} seeds in {:.1?}: {sum:?}", seeds.end - seeds.start, started.elapsed());
}
