//! Watermarks, lateness and windows: arithmetic on event time. No clock.
//!
//! Owns: how far a partition's event time has come ([`Watermark`]), which records come too late
//! ([`Lateness`]), where windows begin and end ([`Windows`]). Does not own: where the state is kept
//! (`record::Mark` has the highest event time; the caller holds one [`Lateness`] per output and
//! partition), nor what is done with a late record.
//!
//! E-1  A record is judged by the records before it in its partition, in offset order, never by
//!      the clock, by other partitions or by itself: so a replay decides alike.
//! E-2  Where one batch ends and the next begins makes no difference.
//!      What moves a watermark without a record is recorded with its offset, and counts there (E-4).
//! E-3  A window, once final, stays final: a watermark never goes back.

mod grid;
#[cfg(test)]
mod grid_tests;
mod lateness;
mod windows;

pub use lateness::{Lateness, Verdict, Watermark};
pub use windows::Windows;
