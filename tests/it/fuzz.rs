//! Every format against bytes that nobody would send: the corpus, and what becomes of it when it is cut,
//! spliced and altered at random. `tests/run --fuzz` looks for longer, and by what code is reached.

#[path = "../fuzz/targets.rs"]
mod targets;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};
use targets::{Target, altered, corpus, names};

/// The same ones every time; more of them for as long as `HIGHWATER_TEST_FUZZ` says, in seconds.
const INPUTS: usize = 1_500;

fn inputs(name: &str) -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(corpus(name)).expect("a corpus").flatten();
    let mut inputs: Vec<_> = files
        .map(|file| {
            let name = file.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(file.path()).expect("an input"))
        })
        .collect();
    inputs.sort();
    inputs
}

fn has_one_fate(name: &str, target: &mut Target, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target.check(input))).is_err() {
        let file = std::env::temp_dir().join(format!("highwater-{name}-{}", std::process::id()));
        std::fs::write(&file, input).expect("the input is kept");
        panic!(
            "{name}: its input is {}; in {} it is tried every time:\n{}",
            file.display(),
            corpus(name).display(),
            input.escape_ascii()
        );
    }
}

#[test]
fn any_bytes_have_one_fate_in_every_format_and_never_a_panic() {
    let seconds = std::env::var("HIGHWATER_TEST_FUZZ").ok();
    let seconds = seconds.map_or(0, |text| text.parse().expect("HIGHWATER_TEST_FUZZ in seconds"));
    for name in names() {
        let (mut target, corpus) = (Target::new(name), inputs(name));
        assert!(corpus.len() >= 3, "{name} has no corpus");
        for (_, input) in &corpus {
            has_one_fate(name, &mut target, input);
        }
        let mut random = SmallRng::seed_from_u64(7);
        let (begun, mut tried) = (Instant::now(), 0);
        while tried < INPUTS || begun.elapsed() < Duration::from_secs(seconds) {
            let mut some = || &corpus[random.random_range(0..corpus.len())].1;
            let (input, other) = (some(), some());
            has_one_fate(name, &mut target, &altered(&mut random, input, other));
            tried += 1;
        }
        println!("{name}: {} of the corpus, {tried} altered, {:?}", corpus.len(), begun.elapsed());
    }
}
