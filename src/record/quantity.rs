//! Durations, sizes and shares as people write them.
//!
//! Owns: the spelling of `90s`, `5 minutes`, `128MiB`, `5%`. Does not own: which of them make sense where.

use std::time::Duration;

const DURATIONS: &str = "a duration such as 500ms, 90s, 10m, 1h, 2d or '1 hour 30 minutes'";

/// PostgreSQL's intervals as far as their length is fixed: `90s`, `5 minutes`, `1 hour 30 min`,
/// `00:05:00`, `1 day 02:00`. Months and years are refused: no two need be equally long.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = |why: &str| format!("`{text}` {why}. Allowed: {DURATIONS}");
    let mut micros: u64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong("is empty"));
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let Ok(number) = rest[..end].parse::<u64>() else {
            return Err(wrong("is not a duration"));
        };
        let part = if rest[end..].starts_with(':') {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let clock = rest[..end].to_owned();
            rest = rest[end..].trim_start();
            clock_micros(&clock).ok_or_else(|| wrong("is not a duration"))?
        } else {
            let after = rest[end..].trim_start();
            let end = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
            let unit = unit_micros(&after[..end].to_lowercase()).map_err(|why| wrong(&why))?;
            rest = after[end..].trim_start();
            number.checked_mul(unit).ok_or_else(|| wrong("is too long"))?
        };
        micros = micros.checked_add(part).ok_or_else(|| wrong("is too long"))?;
    }
    if i64::try_from(micros).is_err() {
        return Err(wrong("is too long"));
    }
    Ok(Duration::from_micros(micros))
}

/// Units as PostgreSQL names and shortens them (`m` is minutes there as well).
fn unit_micros(unit: &str) -> Result<u64, String> {
    const SECOND: u64 = 1_000_000;
    Ok(match unit {
        "us" | "microsecond" | "microseconds" => 1,
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => 1_000,
        "s" | "sec" | "secs" | "second" | "seconds" => SECOND,
        "m" | "min" | "mins" | "minute" | "minutes" => 60 * SECOND,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600 * SECOND,
        "d" | "day" | "days" => 86_400 * SECOND,
        "w" | "week" | "weeks" => 7 * 86_400 * SECOND,
        "mon" | "mons" | "month" | "months" | "y" | "yr" | "year" | "years" => {
            return Err(format!("has no fixed length (`{unit}`)"));
        }
        "" => return Err("has no unit".to_owned()),
        other => return Err(format!("has the unknown unit `{other}`")),
    })
}

/// `HH:MM` or `HH:MM:SS`.
fn clock_micros(text: &str) -> Option<u64> {
    let mut fields = text.split(':').map(|f| f.parse::<u64>().ok());
    let (hours, minutes) = (fields.next()??, fields.next()??);
    let seconds = fields.next().unwrap_or(Some(0))?;
    let whole = fields.next().is_none() && minutes < 60 && seconds < 60;
    whole.then_some(())?;
    hours.checked_mul(3_600)?.checked_add(minutes * 60 + seconds)?.checked_mul(1_000_000)
}

/// `5 min`, `1 h 30 min`, `90 s`: what [`duration`] reads back.
pub fn show_duration(d: Duration) -> String {
    let mut rest = d.as_micros();
    if rest == 0 {
        return "0 s".to_owned();
    }
    if rest.is_multiple_of(1_000_000) && rest < 120_000_000 {
        return format!("{} s", rest / 1_000_000);
    }
    let mut parts = Vec::new();
    let units: [(u128, &str); 6] = [
        (86_400_000_000, "d"),
        (3_600_000_000, "h"),
        (60_000_000, "min"),
        (1_000_000, "s"),
        (1_000, "ms"),
        (1, "us"),
    ];
    for (size, unit) in units {
        if rest >= size {
            parts.push(format!("{} {unit}", rest / size));
            rest %= size;
        }
    }
    parts.join(" ")
}

/// Bytes: `128MiB`, `1GB`, `64KiB`, `512B`.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong =
        |why: &str| format!("`{text}` {why}. Allowed: a size such as 64KiB, 128MiB, 1GiB or 1GB");
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let number: u64 = trimmed[..end].parse().map_err(|_| wrong("is not a size"))?;
    let unit: u64 = match trimmed[end..].trim_start().to_lowercase().as_str() {
        "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "" => return Err(wrong("has no unit")),
        _ => return Err(wrong("has an unknown unit")),
    };
    number.checked_mul(unit).ok_or_else(|| wrong("is too large"))
}

pub fn show_size(bytes: u64) -> String {
    for (unit, name) in [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{} {name}", bytes / unit);
        }
    }
    format!("{bytes} B")
}

/// `5%`, `0.1%`: a share, 0 to 1.
pub fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().strip_suffix('%').and_then(|n| {
        let n = n.trim_end();
        let plain = !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        plain.then(|| n.parse::<f64>().ok()).flatten()
    });
    match number {
        Some(number) if number <= 100.0 => Ok(number / 100.0),
        _ => {
            Err(format!("`{text}` is not a share. Allowed: 0% to 100%, such as \"5%\" or \"0.1%\""))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_postgresql_reads_intervals() {
        for (text, ms) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            ("5 minutes", 300_000),
            ("1 Hour", 3_600_000),
            ("1 hour 30 min", 5_400_000),
            ("1h30m", 5_400_000),
            ("00:05:00", 300_000),
            ("00:05", 300_000),
            ("1 day 02:00", 93_600_000),
            ("1 week", 604_800_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn a_bad_duration_says_why() {
        for (text, why) in [
            ("", "is empty"),
            ("90", "has no unit"),
            ("1 month", "no fixed length"),
            ("2 years", "no fixed length"),
            ("5 parsecs", "unknown unit `parsecs`"),
            ("-5s", "is not a duration"),
            ("five minutes", "is not a duration"),
            ("1.5h", "unit"),
            ("00:99", "is not a duration"),
            ("99999999999999999999s", "is not a duration"),
            ("9999999999999 weeks", "is too long"),
            ("999999999999999:00", "is not a duration"),
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
            assert!(error.contains("Allowed: a duration such as"), "{error}");
        }
    }

    #[test]
    fn a_shown_duration_reads_back() {
        for (ms, text) in [
            (0, "0 s"),
            (90_000, "90 s"),
            (300_000, "5 min"),
            (5_400_000, "1 h 30 min"),
            (86_400_000, "1 d"),
            (1_500, "1 s 500 ms"),
        ] {
            let d = Duration::from_millis(ms);
            assert_eq!(show_duration(d), text);
            assert_eq!(duration(text), Ok(d));
        }
    }

    #[test]
    fn sizes_are_binary_or_decimal_as_written() {
        for (text, bytes) in
            [("128MiB", 128 << 20), ("1GB", 1_000_000_000), ("64 KiB", 65_536), ("512b", 512)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for (text, why) in
            [("128", "no unit"), ("MiB", "not a size"), ("1TX", "unknown unit"), ("-1MiB", "not a")]
        {
            assert!(size(text).unwrap_err().contains(why), "{text}");
        }
        assert_eq!([show_size(128 << 20), show_size(1000)], ["128 MiB", "1000 B"]);
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!(
            [percent("5%"), percent("100 %"), percent("0.1%")],
            [Ok(0.05), Ok(1.0), Ok(0.001)]
        );
        for text in ["5", "101%", "-1%", "%", "nan%", "1e9%", "0.05"] {
            assert!(percent(text).unwrap_err().contains("Allowed: 0% to 100%"), "{text}");
        }
    }
}
