//! Every format under libFuzzer, which looks for inputs that reach new code.
//!
//! `tests/run --fuzz [SECONDS [FORMAT]]` builds this with the crate instrumented (`instrumented`) and runs it;
//! `HIGHWATER_FUZZ_FORMAT` names the target.

#![no_main]

#[allow(dead_code)]
mod targets;

use std::cell::RefCell;

thread_local! {
    static TARGET: RefCell<targets::Target> = RefCell::new(targets::Target::new(
        &std::env::var("HIGHWATER_FUZZ_FORMAT").expect("HIGHWATER_FUZZ_FORMAT names a target"),
    ));
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| TARGET.with_borrow_mut(|target| target.check(input)));
