//! Windows: what a model declares with `tumble`, `hop` and `session`, and how the calls are read.
//!
//! Owns: the shapes of windows, which sizes there are, where their words stand in the call. Does not
//! own: the arithmetic of instants (`event_time`).

use super::{Late, sql::text_of};
use crate::record::quantity::{duration, show_duration};
use chrono_tz::Tz;
use datafusion_sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments,
};
use std::{fmt, time::Duration};

/// The window of a model, one of its group keys.
#[derive(Debug, Clone)]
pub struct Window {
    /// Its alias; columns `NAME_start` and `NAME_end`.
    pub name: String,
    pub shape: Shape,
    /// How long after its end a window still changes.
    pub allowed_lateness: Duration,
    pub late: Late,
}

impl Window {
    /// How far a watermark must be past a row's `NAME_end` so that its partition changes the row
    /// no more (by `late = 'drop'`; else from then on a change is an amendment).
    pub fn closes_after(&self) -> Duration {
        match &self.shape {
            Shape::Tumble(_) | Shape::Hop(_) => self.allowed_lateness,
            // A record touches a session up to its end, and is late a gap and the allowance after
            // its own time.
            Shape::Session { gap } => *gap + self.allowed_lateness,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// Each event is in one window, from one edge of the grid to the next.
    Tumble(Grid),
    /// Windows overlap.
    Hop(Hop),
    /// Events of a key with at most this between one and the next; it ends as long after the last.
    Session { gap: Duration },
}

/// Each window is so many panes in a row: events are aggregated once per pane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    pub pane: Grid,
    /// Panes from one window's start to the next one's. More than 1 only of [`Grid::Fixed`], where
    /// panes are counted from 1970-01-01.
    pub slide: u32,
    /// Panes of a window, at least `slide`.
    pub size: u32,
}

impl fmt::Display for Shape {
    /// As in "one row per …".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tumble(grid) => write!(f, "window of {grid}"),
            Self::Hop(hop) => {
                let (size, slide) = (hop.pane.length(hop.size), hop.pane.length(hop.slide));
                write!(f, "window of {size}, one every {slide}{}", hop.pane.place())
            }
            Self::Session { gap } => {
                write!(f, "session with gaps of up to {}", show_duration(*gap))
            }
        }
    }
}

/// Instants at which windows begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grid {
    /// Every so long since 1970-01-01 UTC.
    Fixed(Duration),
    /// Whenever the clock of a zone shows a multiple of this, or skips forward over one. It divides
    /// a day.
    Clock(Duration, Tz),
    /// Every so many days, counted from Monday 1970-01-05: the first instant at which the zone's
    /// clock shows that midnight or later.
    Days(u32, Tz),
    /// The same, of the first of every so many months, counted from January 1970.
    Months(u32, Tz),
}

const DAY: Duration = Duration::from_secs(86_400);
/// Days and months of a window in a zone: a hundred years.
const DAYS_MAX: u128 = 36_525;
const MONTHS_MAX: u32 = 1_200;

impl fmt::Display for Grid {
    /// `5 min`, `1 d in Europe/London`, `3 months in UTC`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.length(1), self.place())
    }
}

impl Grid {
    /// So many windows in a row.
    fn length(&self, count: u32) -> String {
        match self {
            Self::Fixed(size) | Self::Clock(size, _) => show_duration(*size * count),
            Self::Days(days, _) => format!("{} d", days * count),
            Self::Months(months, _) => match months * count {
                1 => "1 month".to_owned(),
                months => format!("{months} months"),
            },
        }
    }

    fn place(&self) -> String {
        match self {
            Self::Fixed(_) => String::new(),
            Self::Clock(_, zone) | Self::Days(_, zone) | Self::Months(_, zone) => {
                format!(" in {zone}")
            }
        }
    }
}

/// A length as it is written: months are no duration.
#[derive(Clone, Copy)]
enum Length {
    Fixed(Duration),
    Months(u32),
}

const TUMBLE: &str = "Allowed: tumble(interval '5 minutes'), tumble(interval '1 day', 'Europe/London'), of the \
                      topic's event time";

/// `tumble(size [, zone])`.
pub(super) fn tumble(function: &Function) -> Result<Shape, String> {
    let arguments = arguments(function);
    match arguments.as_deref() {
        Some([Argument::Interval(size)]) => Ok(Shape::Tumble(grid(length(size)?, None)?)),
        Some([Argument::Interval(size), Argument::Text(name)]) => {
            Ok(Shape::Tumble(grid(length(size)?, Some(zone(name)?))?))
        }
        _ => Err(format!("tumble takes one interval and perhaps a time zone. {TUMBLE}")),
    }
}

const HOP: &str = "Allowed: hop(interval '5 minutes', interval '1 hour'), hop(interval '1 day', interval '1 week', \
                   'Europe/London'): how often a window begins, and its size";

/// Panes of one window: a record's row in a cut becomes at most so many.
const PANES_MAX: u64 = 1_000;

/// `hop(slide, size [, zone])`.
pub(super) fn hop(function: &Function) -> Result<Shape, String> {
    let arguments = arguments(function);
    let (slide, size, zone) = match arguments.as_deref() {
        Some([Argument::Interval(slide), Argument::Interval(size)]) => (slide, size, None),
        Some([Argument::Interval(slide), Argument::Interval(size), Argument::Text(name)]) => {
            (slide, size, Some(zone(name)?))
        }
        _ => return Err(format!("hop takes two intervals and perhaps a time zone. {HOP}")),
    };
    let (slide, size) = (length(slide)?, length(size)?);
    let written = (slide, size);
    let (slide_units, size_units) = match written {
        (Length::Fixed(slide), Length::Fixed(size)) => {
            (slide.as_micros() as u64, size.as_micros() as u64)
        }
        (Length::Months(slide), Length::Months(size)) => (u64::from(slide), u64::from(size)),
        _ => return Err(format!("hop mixes months with days or hours. {HOP}")),
    };
    if slide_units > size_units {
        return Err(format!(
            "hop begins a window less often than one ends: events in between would be in none. {HOP}"
        ));
    }
    let divides = size_units.is_multiple_of(slide_units);
    let pane_units = match (written, zone) {
        (_, _) if divides => slide_units,
        ((Length::Fixed(_), _), None) => gcd(slide_units, size_units),
        // In a zone panes differ in length, and cannot be counted from 1970 on.
        _ => {
            return Err(
                "the slide of hop does not divide its size. Allowed in a time zone and of months: a \
                 size that is a multiple of the slide"
                    .to_owned(),
            );
        }
    };
    let panes = size_units / pane_units;
    if panes > PANES_MAX {
        return Err(format!(
            "a window of hop would be put together from {panes} panes. Allowed: {PANES_MAX}; a longer \
             slide, or one that divides the size"
        ));
    }
    let pane = match slide {
        Length::Fixed(_) => Length::Fixed(Duration::from_micros(pane_units)),
        Length::Months(_) => slide,
    };
    let pane = grid(pane, zone)?;
    Ok(Shape::Hop(Hop { pane, slide: (slide_units / pane_units) as u32, size: panes as u32 }))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// `session(gap)`.
pub(super) fn session(function: &Function) -> Result<Shape, String> {
    let allowed = "Allowed: session(interval '30 minutes'), the longest time between two events of one session";
    let arguments = arguments(function);
    let Some([Argument::Interval(gap)]) = arguments.as_deref() else {
        return Err(format!("session takes one interval and nothing else. {allowed}"));
    };
    match length(gap)? {
        Length::Fixed(gap) => Ok(Shape::Session { gap }),
        Length::Months(_) => Err(format!("a gap of months has no fixed length. {allowed}")),
    }
}

enum Argument {
    /// What stands in quotes, with the unit that may follow.
    Interval(String),
    Text(String),
}

/// None: there is something else among them.
fn arguments(function: &Function) -> Option<Vec<Argument>> {
    let FunctionArguments::List(list) = &function.args else { return None };
    if !list.clauses.is_empty() || list.duplicate_treatment.is_some() {
        return None;
    }
    let argument = |argument: &FunctionArg| {
        let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = argument else { return None };
        match expr {
            Expr::Interval(interval) => {
                let text = text_of(&interval.value)?;
                Some(Argument::Interval(match &interval.leading_field {
                    Some(unit) => format!("{text} {unit}"),
                    None => text.to_owned(),
                }))
            }
            other => text_of(other).map(|text| Argument::Text(text.to_owned())),
        }
    };
    list.args.iter().map(argument).collect()
}

fn length(text: &str) -> Result<Length, String> {
    if let Some(months) = months(text) {
        return match months {
            1..=MONTHS_MAX => Ok(Length::Months(months)),
            _ => Err(format!(
                "the window's size is {text}. Allowed: 1 to {MONTHS_MAX} months, a hundred years"
            )),
        };
    }
    let size = duration(text).map_err(|what| format!("the window's size: {what}"))?;
    if size < Duration::from_millis(1) {
        return Err(format!("the window's size is {text}. Allowed: one millisecond or more"));
    }
    Ok(Length::Fixed(size))
}

/// `1 month`, `3 months`, `1 year`, alone; None: it is none of these.
fn months(text: &str) -> Option<u32> {
    let text = text.trim().to_lowercase();
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u32 = text[..end].parse().ok()?;
    match text[end..].trim_start() {
        "mon" | "mons" | "month" | "months" => Some(number),
        "y" | "yr" | "yrs" | "year" | "years" => Some(number.saturating_mul(12)),
        _ => None,
    }
}

fn zone(name: &str) -> Result<Tz, String> {
    name.parse().map_err(|_| {
        format!(
            "unknown time zone `{name}`. Allowed: a name of the IANA data base, such as \
             'Europe/London' or 'UTC'"
        )
    })
}

fn grid(length: Length, zone: Option<Tz>) -> Result<Grid, String> {
    match (length, zone) {
        (Length::Months(months), zone) => Ok(Grid::Months(months, zone.unwrap_or(Tz::UTC))),
        (Length::Fixed(size), None) => Ok(Grid::Fixed(size)),
        (Length::Fixed(size), Some(zone)) => {
            let (size_us, day_us) = (size.as_micros(), DAY.as_micros());
            let days = size_us / day_us;
            if size_us.is_multiple_of(day_us) && days <= DAYS_MAX {
                Ok(Grid::Days(days as u32, zone))
            } else if day_us.is_multiple_of(size_us) {
                Ok(Grid::Clock(size, zone))
            } else {
                Err(format!(
                    "windows of {} in {zone}. Allowed in a time zone: what divides a day (6 hours, 15 \
                     minutes), whole days and weeks up to {DAYS_MAX} days, months",
                    show_duration(size)
                ))
            }
        }
    }
}
