//! Windows: what a model declares with `tumble`, and how the call is read.
//!
//! Owns: the shapes of windows, which sizes there are, where their words stand in the call. Does not
//! own: the arithmetic of instants (`event_time`).

use super::{Late, sql::text_of};
use crate::record::quantity::{duration, show_duration};
use chrono_tz::Tz;
use datafusion::sql::sqlparser::ast::{
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
            Shape::Tumble(_) => self.allowed_lateness,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// Each event is in one window, from one edge of the grid to the next.
    Tumble(Grid),
}

impl fmt::Display for Shape {
    /// As in "one row per …".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tumble(grid) => write!(f, "window of {grid}"),
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
        match self {
            Self::Fixed(size) => f.write_str(&show_duration(*size)),
            Self::Clock(size, zone) => write!(f, "{} in {zone}", show_duration(*size)),
            Self::Days(days, zone) => write!(f, "{days} d in {zone}"),
            Self::Months(1, zone) => write!(f, "1 month in {zone}"),
            Self::Months(months, zone) => write!(f, "{months} months in {zone}"),
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
