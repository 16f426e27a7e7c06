//! `--from`, `--to` and `--partitions` as they are typed.
//!
//! Owns: their text. Does not own: what an output makes of them.

use crate::{
    error::{Error, Result},
    pipeline::rewrite::reach::Bound,
    record::{EventTime, Offset, Partition},
};
use chrono::{DateTime, NaiveDate, NaiveTime};
use std::collections::{BTreeMap, BTreeSet};

/// `beginning`, `1200`, `0:1200,3:900`, `2026-03-01` or `2026-03-01T06:00:00Z`.
pub fn bound(option: &str, text: &str) -> Result<Bound> {
    if text == "beginning" {
        return Ok(Bound::Beginning);
    }
    if let Some(offset) = number(text) {
        return Ok(Bound::Offset(offset));
    }
    if let Some(time) = time(text) {
        return Ok(Bound::Time(time));
    }
    let mut offsets = BTreeMap::new();
    for one in text.split(',') {
        let parts = one.trim().split_once(':');
        let found = parts.and_then(|(p, o)| Some((p.parse::<i32>().ok()?, number(o)?)));
        let Some((partition, offset)) = found.filter(|(p, _)| *p >= 0) else {
            return Err(Error::config(format!(
                "{option} {text}: {one:?} is nothing known. Allowed: beginning; an offset for all partitions (1200); \
                 offsets of some (0:1200,3:900); a time (2026-03-01, 2026-03-01T06:00:00Z)"
            )));
        };
        if offsets.insert(Partition(partition), offset).is_some() {
            return Err(Error::config(format!("{option} {text}: partition {partition} twice")));
        }
    }
    Ok(Bound::Offsets(offsets))
}

fn number(text: &str) -> Option<Offset> {
    text.parse().ok().filter(|offset| *offset >= 0).map(Offset)
}

/// A day begins at midnight UTC.
fn time(text: &str) -> Option<EventTime> {
    let instant = DateTime::parse_from_rfc3339(text).map(|at| at.timestamp_micros());
    let day = || {
        let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        Some(day.and_time(NaiveTime::MIN).and_utc().timestamp_micros())
    };
    instant.ok().or_else(day).map(EventTime)
}

/// `0,3`.
pub fn partitions(text: &str) -> Result<BTreeSet<Partition>> {
    let one = |one: &str| {
        let found = one.trim().parse().ok().filter(|p| *p >= 0).map(Partition);
        found.ok_or_else(|| {
            Error::config(format!("--partitions {text}: {one:?} is no partition. Allowed: 0,3"))
        })
    };
    text.split(',').map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_an_offset_offsets_or_a_time() {
        let read = |text| bound("--from", text).unwrap();
        assert_eq!(read("beginning"), Bound::Beginning);
        assert_eq!(read("1200"), Bound::Offset(Offset(1200)));
        let each = BTreeMap::from([(Partition(0), Offset(12)), (Partition(3), Offset(0))]);
        assert_eq!(read("0:12, 3:0"), Bound::Offsets(each));
        let at = |seconds: i64| Bound::Time(EventTime(seconds * 1_000_000));
        assert_eq!(read("2026-03-01"), at(1_772_323_200));
        assert_eq!(read("2026-03-01T07:00:00+01:00"), at(1_772_323_200 + 6 * 3600));
        for wrong in ["-1", "yesterday", "0:1,0:2", "0:-1", "", "3:", "2026-13-01"] {
            assert!(bound("--from", wrong).is_err(), "{wrong}");
        }
        assert_eq!(partitions("0, 3").unwrap(), BTreeSet::from([Partition(0), Partition(3)]));
        assert!(partitions("0,x").is_err());
    }
}
