//! Fare taps as a city makes them: a morning's peak, clocks in disorder, a few late, a few broken.

use crate::{record::EventTime, source::broker::Outgoing};
use rand::{Rng, SeedableRng, rngs::SmallRng};

const TAPS: usize = 90_000;
/// 2024-03-01 06:00:00 UTC.
const BEGIN: i64 = 1_709_272_800;
const HOURS: i64 = 3;
const STOPS: u32 = 120;
const TOKENS: u32 = 30_000;

/// The same taps every time, in order of arrival.
pub fn generate() -> Vec<Outgoing> {
    let mut random = SmallRng::seed_from_u64(20_240_301);
    (0..TAPS).map(|number| tap(number, &mut random)).collect()
}

fn tap(number: usize, random: &mut SmallRng) -> Outgoing {
    let seconds = HOURS * 3600 * number as i64 / TAPS as i64;
    // Up to 90 s of disorder; one in a thousand comes up to 30 minutes late.
    let delay = match random.random_range(0..1000) {
        0 => random.random_range(90..1800),
        _ => random.random_range(0..90),
    };
    let arrival = BEGIN + seconds;
    let event = arrival - delay;
    let token = random.random_range(0..TOKENS);
    let stop = random.random_range(0..STOPS).min(random.random_range(0..STOPS));
    let mode = ["bus", "tram", "rail", "ferry"][random.random_range(0..20usize) % 7 % 4];
    let fare = [0, 165, 165, 175, 280, 340][random.random_range(0..6)];
    let instant = |seconds: i64| {
        chrono::DateTime::from_timestamp(seconds, random_millis(number) * 1_000_000)
            .map(|t| t.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
            .unwrap_or_default()
    };
    let value = match random.random_range(0..9000) {
        // Cut off in the middle, no stop, no number, a clock in another century.
        0 => format!(r#"{{"tapId":"tap-{number:07}","tokenId":"#),
        1 => format!(
            r#"{{"tapId":"tap-{number:07}","tokenId":"{token:08}","deviceId":"dev-{stop:03}","eventTime":"{}","mode":"{mode}","fareCents":{fare}}}"#,
            instant(event)
        ),
        2 => format!(
            r#"{{"tapId":"tap-{number:07}","tokenId":"{token:08}","stopId":"{stop:04}","deviceId":"dev-{stop:03}","eventTime":"{}","mode":"{mode}","fareCents":"free"}}"#,
            instant(event)
        ),
        3 => format!(
            r#"{{"tapId":"tap-{number:07}","tokenId":"{token:08}","stopId":"{stop:04}","deviceId":"dev-{stop:03}","eventTime":"2099-12-31T23:59:59Z","mode":"{mode}","fareCents":{fare}}}"#
        ),
        _ => format!(
            r#"{{"tapId":"tap-{number:07}","tokenId":"{token:08}","stopId":"{stop:04}","deviceId":"dev-{stop:03}","eventTime":"{}","mode":"{mode}","fareCents":{fare}}}"#,
            instant(event)
        ),
    };
    Outgoing { key: format!("{token:08}"), value, timestamp: EventTime(arrival * 1_000_000) }
}

fn random_millis(number: usize) -> u32 {
    (number as u32).wrapping_mul(2_654_435_761) % 1000
}
