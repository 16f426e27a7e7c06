//! Which windows take an event.
//!
//! Owns: the windows of each shape. Does not own: where windows begin (`grid`).

use super::grid::Edges;
use crate::catalog::{Grid, Hop, Shape};

/// The windows of one model.
#[derive(Debug, Clone)]
pub enum Windows {
    Tumble(Edges),
    Hop(Hops),
    /// Of this gap. By itself an event makes a session from its time to a gap after it.
    Session(i64),
}

impl Windows {
    pub fn new(shape: &Shape) -> Self {
        match shape {
            Shape::Tumble(grid) => Self::Tumble(Edges::new(*grid)),
            Shape::Hop(hop) => Self::Hop(Hops::new(*hop)),
            Shape::Session { gap } => Self::Session(gap.as_micros() as i64),
        }
    }

    /// Ends of the first and of the last window that take an event of this time.
    #[inline]
    pub fn ends(&mut self, t: i64) -> (i64, i64) {
        match self {
            Self::Tumble(edges) => {
                let (_, end) = edges.around(t);
                (end, end)
            }
            Self::Hop(hops) => {
                let windows = hops.of(t);
                (windows[0].1, windows[windows.len() - 1].1)
            }
            Self::Session(gap) => {
                let end = t.saturating_add(*gap);
                (end, end)
            }
        }
    }

    /// Start of the first of them that is not final, of which there is one.
    pub fn first_open(&mut self, t: i64, is_final: impl Fn(i64) -> bool) -> i64 {
        match self {
            Self::Tumble(edges) => edges.around(t).0,
            Self::Session(_) => t,
            Self::Hop(hops) => {
                let windows = hops.of(t);
                let closed = windows.partition_point(|(_, end)| is_final(*end));
                windows[closed.min(windows.len() - 1)].0
            }
        }
    }
}

/// Windows that overlap, each made of panes.
#[derive(Debug, Clone)]
pub struct Hops {
    hop: Hop,
    edges: Edges,
    /// The pane that `windows` are of.
    pane: (i64, i64),
    windows: Vec<(i64, i64)>,
}

impl Hops {
    fn new(hop: Hop) -> Self {
        Self { hop, edges: Edges::new(hop.pane), pane: (i64::MAX, i64::MIN), windows: Vec::new() }
    }

    /// Start of the pane that holds `t`.
    #[inline]
    pub fn pane(&mut self, t: i64) -> i64 {
        self.edges.around(t).0
    }

    /// Start and end of each window that holds `t`, ascending; at least one.
    #[inline]
    pub fn of(&mut self, t: i64) -> &[(i64, i64)] {
        if t < self.pane.0 || t >= self.pane.1 {
            self.pane = self.edges.around(t);
            self.windows = match self.hop.pane {
                Grid::Fixed(pane) => self.fixed(t, pane.as_micros() as i64),
                Grid::Clock(..) | Grid::Days(..) | Grid::Months(..) => self.in_zone(),
            };
        }
        &self.windows
    }

    /// The window that begins at `start`, as [`Self::of`] has it.
    pub fn end(&mut self, start: i64) -> i64 {
        let windows = self.of(start);
        windows[windows.len() - 1].1
    }

    fn fixed(&self, t: i64, pane: i64) -> Vec<(i64, i64)> {
        let (pane, slide) = (i128::from(pane), i128::from(self.hop.slide));
        let (size, index) = (i128::from(self.hop.size), i128::from(t).div_euclid(pane));
        let clamped = |index: i128| (index * pane).clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        let last = index.div_euclid(slide) * slide;
        let count = (last + size - 1 - index) / slide + 1;
        let starts = (0..count).rev().map(|back| last - back * slide);
        let mut windows: Vec<_> =
            starts.map(|start| (clamped(start), clamped(start + size))).collect();
        // Beyond 64 bits windows cannot be told apart: the last one stands for them.
        windows.dedup_by(|next, kept| {
            next.0 == kept.0 && {
                *kept = *next;
                true
            }
        });
        windows
    }

    /// In a zone a window is so many panes in a row, however long they are.
    fn in_zone(&mut self) -> Vec<(i64, i64)> {
        let panes = self.hop.size as usize;
        let mut edges = vec![self.pane.0];
        for _ in 1..panes {
            let before = edges[edges.len() - 1].saturating_sub(1);
            edges.push(self.edges.around(before).0);
        }
        edges.reverse();
        let mut end = self.pane.1;
        for _ in 0..panes {
            edges.push(end);
            end = self.edges.around(end).1;
        }
        let mut windows: Vec<_> = (0..panes).map(|i| (edges[i], edges[i + panes])).collect();
        windows.dedup_by(|next, kept| {
            next.0 == kept.0 && {
                *kept = *next;
                true
            }
        });
        windows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn hops(pane: Grid, slide: u32, size: u32) -> Hops {
        Hops::new(Hop { pane, slide, size })
    }

    const HOUR: i64 = 3_600_000_000;

    #[test]
    fn a_week_that_slides_by_the_day_is_seven_days_of_its_zone() {
        let mut week = hops(Grid::Days(1, chrono_tz::Europe::London), 1, 7);
        // Noon of 2024-03-31, the day of 23 hours.
        let noon = 1_711_882_800_000_000;
        let windows = week.of(noon).to_vec();
        assert_eq!(windows.len(), 7);
        let day = 1_711_843_200_000_000;
        assert_eq!(windows[0], (day - 6 * 24 * HOUR, day + 23 * HOUR));
        assert_eq!(windows[6], (day, day + (7 * 24 - 1) * HOUR));
        assert_eq!(week.end(windows[3].0), windows[3].1);
    }

    #[test]
    fn instants_at_the_ends_of_64_bits_have_windows() {
        for (pane, slide) in [
            (Grid::Fixed(Duration::from_secs(3600)), 3),
            (Grid::Months(1, chrono_tz::Asia::Kathmandu), 1),
        ] {
            for t in [i64::MIN, i64::MIN + 9 * HOUR, i64::MAX - 9 * HOUR, i64::MAX] {
                let mut hops = hops(pane, slide, 8);
                let windows = hops.of(t);
                assert!(!windows.is_empty() && windows.is_sorted_by(|a, b| a.0 < b.0), "{t}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_windows_of_an_event_are_all_that_hold_it(
            times in prop::collection::vec(-300i64..300, 1..20),
            pane in 1i64..9, slide in 1u32..6, more in 0u32..9,
        ) {
            let size = slide + more;
            let mut hops = hops(Grid::Fixed(Duration::from_micros(pane as u64)), slide, size);
            for t in times {
                let slow: Vec<_> = (-500..=500)
                    .map(|n| n * pane * i64::from(slide))
                    .map(|start| (start, start + pane * i64::from(size)))
                    .filter(|(start, end)| (*start..*end).contains(&t))
                    .collect();
                prop_assert_eq!(hops.of(t), slow);
                for (start, end) in hops.of(t).to_vec() {
                    prop_assert_eq!(hops.end(start), end);
                }
            }
        }
    }
}
