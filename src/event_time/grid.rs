//! Where windows begin and end: the edges of a grid, in UTC or by the clock of a time zone.
//!
//! Owns: the arithmetic, also where a zone sets its clock on or back. Does not own: what a model
//! declares (`catalog::Grid`), which windows take an event (`windows`).
//!
//! A window goes from an edge to the next; every instant is in exactly one. In a zone of which the
//! clock shows the time L at the instant t, with `L = t + offset(t)`, the edges are
//!
//! - of what divides a day ([`Grid::Clock`]): every instant at which the clock shows a multiple of
//!   the size, or skips forward over one. So the two hours that both begin at 01:00 are two windows
//!   of an hour, and a window of six hours has five or seven where the clock is set on or back;
//! - of days and months: the first instant at which the clock shows that midnight, or later. So a
//!   day has 23 or 25 hours where the clock is set, begins at 01:00 where midnight was skipped, and
//!   a day that was skipped has no window.
//!
//! Edges never run backwards, whatever the clock does.

use crate::catalog::Grid;
use chrono::{DateTime, Datelike, NaiveDate, Offset, TimeZone};
use chrono_tz::Tz;
use std::ops::Range;

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
/// 1970-01-01 was a Thursday.
const FIRST_MONDAY: i64 = 4 * DAY;

/// About 200,000 years around 1970: what lies beyond is one window before and one after.
const CALENDAR: Range<i64> = -73_000_000 * DAY..73_000_000 * DAY;

/// Gives the window around an instant. Neighbours in a partition mostly share one, so an instant
/// costs two comparisons, and more only where the window changes.
#[derive(Debug, Clone)]
pub struct Edges {
    grid: Grid,
    last: (i64, i64),
    clock: Option<Clock>,
}

impl Edges {
    pub fn new(grid: Grid) -> Self {
        let clock = match grid {
            Grid::Fixed(_) => None,
            Grid::Clock(_, zone) | Grid::Days(_, zone) | Grid::Months(_, zone) => {
                Some(Clock::new(zone))
            }
        };
        // An empty window: no instant is in it.
        Self { grid, last: (i64::MAX, i64::MIN), clock }
    }

    /// Start and end of the window that holds `t`, clamped to what 64 bits can say.
    #[inline]
    pub fn around(&mut self, t: i64) -> (i64, i64) {
        if t < self.last.0 || t >= self.last.1 {
            self.last = self.find(t);
        }
        self.last
    }

    fn find(&mut self, t: i64) -> (i64, i64) {
        let Some(clock) = &mut self.clock else {
            let Grid::Fixed(size) = self.grid else { unreachable!("every other grid has a clock") };
            return fixed(t, size.as_micros() as i64);
        };
        if t < CALENDAR.start {
            return (i64::MIN, CALENDAR.start);
        }
        if t >= CALENDAR.end {
            return (CALENDAR.end, i64::MAX);
        }
        let (start, end) = match self.grid {
            Grid::Fixed(size) => fixed(t, size.as_micros() as i64),
            Grid::Clock(size, _) => clock.multiples(t, size.as_micros() as i64),
            Grid::Days(days, _) => {
                let size = i64::from(days) * DAY;
                let index = |local: i64| (local - FIRST_MONDAY).div_euclid(size);
                clock.between(t, index, |index| FIRST_MONDAY + index * size)
            }
            Grid::Months(months, _) => {
                let months = i64::from(months);
                let index = |local| month_of(local).div_euclid(months);
                clock.between(t, index, |index| first_of(index * months))
            }
        };
        (start.max(CALENDAR.start), end.min(CALENDAR.end))
    }
}

fn fixed(t: i64, size: i64) -> (i64, i64) {
    assert!(size > 0, "a window has a size, size_us={size}");
    let since_start = t.rem_euclid(size);
    (t.saturating_sub(since_start), t.saturating_add(size - since_start))
}

/// Months from January 1970 to that of a local time.
fn month_of(local: i64) -> i64 {
    let at = DateTime::from_timestamp_micros(local).expect("within the calendar");
    (i64::from(at.year()) - 1970) * 12 + i64::from(at.month0())
}

/// The local time at which a month begins.
fn first_of(month: i64) -> i64 {
    let year = 1970 + month.div_euclid(12) as i32;
    let first = NaiveDate::from_ymd_opt(year, month.rem_euclid(12) as u32 + 1, 1);
    let first = first.expect("within the calendar").and_time(chrono::NaiveTime::MIN);
    first.and_utc().timestamp_micros()
}

/// The clock of a zone, with a stretch of time in which it was not set.
#[derive(Debug, Clone)]
struct Clock {
    zone: Tz,
    stretch: Stretch,
}

/// From (included) to (not included) the clock is ahead of UTC by this. Its ends are where the
/// clock is set, or just as far as was looked.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    from: i64,
    to: i64,
    ahead: i64,
}

/// How far a stretch is looked for on either side.
const LOOK_DAYS: usize = 12;
/// No zone was ever further from UTC.
const AHEAD_MAX: i64 = 18 * 3_600 * SECOND;

impl Clock {
    fn new(zone: Tz) -> Self {
        Self { zone, stretch: Stretch { from: i64::MAX, to: i64::MIN, ahead: 0 } }
    }

    fn ahead(&self, t: i64) -> i64 {
        // Windows at the ends of the calendar look a little beyond it; chrono's ends later.
        let at = DateTime::from_timestamp_micros(t).expect("within chrono's calendar");
        let offset = self.zone.offset_from_utc_datetime(&at.naive_utc()).fix();
        i64::from(offset.local_minus_utc()) * SECOND
    }

    /// A stretch that holds `t`. It is looked for day by day: no zone of the database sets its
    /// clock twice within three.
    fn stretch(&mut self, t: i64) -> Stretch {
        if t < self.stretch.from || t >= self.stretch.to {
            let ahead = self.ahead(t);
            // The last instant known to be within, on either side.
            let (first, last) = (self.reach(t, ahead, -DAY), self.reach(t, ahead, DAY));
            self.stretch = Stretch { from: first, to: last + 1, ahead };
        }
        self.stretch
    }

    /// The farthest instant, as far as is looked, up to which the clock stays as at `t`.
    fn reach(&self, t: i64, ahead: i64, step: i64) -> i64 {
        let mut near = t;
        for _ in 0..LOOK_DAYS {
            let mut far = near + step;
            if self.ahead(far) == ahead {
                near = far;
                continue;
            }
            while near.abs_diff(far) > 1 {
                let middle = near + (far - near) / 2;
                match self.ahead(middle) == ahead {
                    true => near = middle,
                    false => far = middle,
                }
            }
            break;
        }
        near
    }

    /// The first instant at which the clock shows this time, or later.
    fn first_showing(&mut self, local: i64) -> i64 {
        let mut from = local - AHEAD_MAX - DAY;
        loop {
            let stretch = self.stretch(from);
            let at = local - stretch.ahead;
            if at < from {
                return from;
            }
            if at < stretch.to {
                return at;
            }
            from = stretch.to;
        }
    }

    /// The window around `t` of those that begin at the first showing of `label(index)`.
    fn between(
        &mut self,
        t: i64,
        index: impl Fn(i64) -> i64,
        label: impl Fn(i64) -> i64,
    ) -> (i64, i64) {
        let shown = t + self.stretch(t).ahead;
        // What the clock shows now it has shown; it may have shown more and been set back.
        let mut index = index(shown);
        let mut start = self.first_showing(label(index));
        loop {
            index += 1;
            let end = self.first_showing(label(index));
            if end > t {
                return (start, end);
            }
            start = end;
        }
    }

    /// The window around `t` of those that begin where the clock shows a multiple of `size`, or
    /// skips forward over one.
    fn multiples(&mut self, t: i64, size: i64) -> (i64, i64) {
        let floor = |local: i64| local - local.rem_euclid(size);
        let at = self.stretch(t);
        let (start, end) = (floor(t + at.ahead) - at.ahead, floor(t + at.ahead) + size - at.ahead);
        if start >= at.from && end < at.to {
            return (start, end);
        }
        (self.edge_before(t, floor), self.edge_after(t, size, floor))
    }

    /// The last edge at or before `t`.
    fn edge_before(&mut self, mut t: i64, floor: impl Fn(i64) -> i64) -> i64 {
        loop {
            let stretch = self.stretch(t);
            let edge = floor(t + stretch.ahead) - stretch.ahead;
            if edge >= stretch.from {
                return edge;
            }
            let before = self.stretch(stretch.from - 1);
            let (shown, shows) = (stretch.from + before.ahead, stretch.from + stretch.ahead);
            if shows > shown && floor(shows) >= shown {
                return stretch.from;
            }
            t = stretch.from - 1;
        }
    }

    /// The first edge after `t`.
    fn edge_after(&mut self, mut t: i64, size: i64, floor: impl Fn(i64) -> i64) -> i64 {
        loop {
            let stretch = self.stretch(t);
            let edge = floor(t + stretch.ahead) + size - stretch.ahead;
            if edge < stretch.to {
                return edge;
            }
            let after = self.stretch(stretch.to);
            let (shown, shows) = (stretch.to + stretch.ahead, stretch.to + after.ahead);
            if floor(shows) == shows || shows > shown && floor(shows) >= shown {
                return stretch.to;
            }
            t = stretch.to;
        }
    }
}
