//! The proof finds what was done by hand.

use crate::support::{Lake, Running, World, data, lines};
use std::path::PathBuf;

/// Every way to merge: cut by cut as records came, the tables are those that the lake gives file by file.
const EVERY_KIND: &str = "CREATE MATERIALIZED VIEW every_kind AS
    SELECT kind, product, tumble(interval '10 minutes') AS w, count(DISTINCT stop_id) AS stops,
           approx_distinct(token_id) AS journeys, approx_percentile(fare, 0.5) AS half,
           approx_percentile(fare, 0.9) AS most, stddev(fare) AS spread,
           variance(fare::double precision) AS rough, sum(fare::double precision) AS total,
           first_value(stop_id) AS first_stop, arg_max(stop_id, fare) AS dearest,
           bool_or(capped) AS any_capped, delta(fare) AS grown
    FROM oyster_taps GROUP BY kind, product, w";

fn world() -> Option<World> {
    let data = data()?;
    let models = ["oyster_hourly_by_kind", "oyster_product_daily", "oyster_stop_15m"];
    let world = World::new("verify", 3, Lake::Local, "oyster_taps", &models)?;
    std::fs::write(world.folder.path().join("models/every_kind.sql"), EVERY_KIND).expect("model");
    let taps = lines(&data.join("oyster_sunday_taps.jsonl.zst"));
    world.produce(taps.into_iter().take(60_000).enumerate().map(|(i, tap)| {
        // A few broken ones, so that dead letters are part of the proof.
        let tap = if i % 5_000 == 7 { tap.replace("\"stopId\"", "\"stop\"") } else { tap };
        (format!("{}", i % 1_000), tap)
    }));
    world.run_until_caught_up();
    Some(world)
}

impl World {
    fn verify(&self, deep: bool) -> (Option<i32>, String) {
        let arguments: &[&str] = if deep { &["verify", "--deep"] } else { &["verify"] };
        Running::start(self.command(arguments)).wait()
    }

    fn assert_clean(&self) {
        let (code, text) = self.verify(true);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("everything holds"), "{text}");
        assert!(text.contains("4 tables rebuilt"), "{text}");
    }

    fn assert_found(&self, deep: bool, breaks: &str, words: &str) {
        let (code, text) = self.verify(deep);
        assert_eq!(code, Some(1), "{text}");
        let found = text.lines().any(|l| l.starts_with(breaks) && l.contains(words));
        assert!(found, "no {breaks} with {words:?} in:\n{text}");
    }

    fn some_file(&self) -> PathBuf {
        let path = self.query("SELECT path FROM highwater.lake_files ORDER BY path LIMIT 1");
        let path = path[0][0].clone().expect("a path");
        PathBuf::from(self.lake.strip_prefix("file://").expect("local")).join(path)
    }
}

#[test]
fn whatever_is_done_by_hand_is_found_and_told() {
    let Some(world) = world() else { return };
    world.assert_clean();

    let file = world.some_file();
    let name = file.file_name().expect("name").to_string_lossy().into_owned();
    let bytes = std::fs::read(&file).expect("read");

    std::fs::remove_file(&file).expect("remove");
    world.assert_found(false, "V-3", "is not there");
    std::fs::write(&file, &bytes[..bytes.len() / 2]).expect("truncate");
    world.assert_found(false, "V-3", &format!("{name} has {} bytes", bytes.len() / 2));
    let mut altered = bytes.clone();
    altered[bytes.len() / 2] ^= 1;
    std::fs::write(&file, &altered).expect("alter");
    world.assert_found(false, "V-3", "was altered");
    std::fs::write(&file, &bytes).expect("restore");

    let copy = file.with_file_name("copy.parquet");
    std::fs::copy(&file, &copy).expect("copy");
    world.assert_found(false, "V-3", "is in no manifest");
    std::fs::remove_file(&copy).expect("remove");
    world.assert_clean();

    let marks = "UPDATE highwater.marks SET";
    let lake = "WHERE output = 'lake' AND partition = 0";
    world.query(&format!("{marks} next_offset = next_offset + 5, accepted = accepted + 5 {lake}"));
    world.assert_found(false, "V-2", "in the manifest");
    world.assert_found(false, "V-5", "Kafka ends at");
    world.query(&format!("{marks} next_offset = next_offset - 5, accepted = accepted - 5 {lake}"));
    world.query(&format!("{marks} accepted = accepted - 5, absent = absent + 5 {lake}"));
    world.assert_found(false, "V-1", "absent");
    world.query(&format!("{marks} accepted = accepted + 5, absent = absent - 5 {lake}"));
    world.assert_clean();

    world.query(
        "DELETE FROM highwater.dead_letters
         WHERE (partition, \"offset\") = (SELECT partition, min(\"offset\")
             FROM highwater.dead_letters GROUP BY partition ORDER BY partition LIMIT 1)",
    );
    world.assert_found(false, "V-4", "dead letters stored");
    world.query(
        "UPDATE oyster_hourly_by_kind SET taps = taps + 1
         WHERE window_start = (SELECT min(window_start) FROM oyster_hourly_by_kind)",
    );
    world.assert_found(true, "V-7", "table oyster_hourly_by_kind: 2 rows differ");
    world.query(
        "UPDATE oyster_stop_15m__riders SET _value = _value || '?'
         WHERE (window_start, stop_id, _value) = (SELECT window_start, stop_id, _value
             FROM oyster_stop_15m__riders ORDER BY window_start, stop_id, _value LIMIT 1)",
    );
    world.assert_found(true, "V-7", "table oyster_stop_15m: 2 rows differ");
    for (column, wrong) in [
        ("grown", "grown + 1"),
        ("journeys", "journeys + 1"),
        ("_rough_moments_m2", "_rough_moments_m2 * 1.000001"),
    ] {
        world.query("CREATE TABLE IF NOT EXISTS saved AS TABLE every_kind");
        let row = format!(
            "(SELECT ctid FROM every_kind WHERE {column} <> 0 ORDER BY w_start, kind, product LIMIT 1)"
        );
        world.query(&format!("UPDATE every_kind SET {column} = {wrong} WHERE ctid = {row}"));
        let (_, text) = world.verify(true);
        assert!(text.contains("table every_kind: "), "{column}: {text}");
        world.query(&format!("UPDATE every_kind AS t SET {column} = s.{column} FROM saved AS s
            WHERE (t.kind, t.w_start) = (s.kind, s.w_start) AND t.product IS NOT DISTINCT FROM s.product"));
        let (_, text) = world.verify(true);
        assert!(!text.contains("table every_kind: "), "{column}: {text}");
    }
}

#[test]
fn verify_answers_machines_as_well() {
    let Some(world) = world() else { return };
    let text = world.run(&["verify", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["findings"], serde_json::json!([]));
    assert_eq!(report["rows"], 60_000 - 12);
}
