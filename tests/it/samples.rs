//! The other topics and models of the repository, each run as it stands over what its source sends,
//! and held against an oracle that takes one message at a time.

use crate::support::{Lake, World, data, eventually};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::Value;
use std::{collections::BTreeMap, io::Read, path::Path, time::Duration};

type Rows = Vec<Vec<Option<String>>>;

fn text(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

/// Key and value as they were captured; a value may be none.
fn send(world: &World, key: Option<&str>, value: Option<&str>) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &world.services.kafka)
        .create()
        .expect("producer");
    let mut record = BaseRecord::<str, str>::to(&world.kafka_topic).partition(0);
    record.key = key;
    record.payload = value;
    producer.send(record).map_err(|(error, _)| error).expect("produce");
    producer.flush(Duration::from_secs(60)).expect("flush");
}

#[test]
fn orders_follow_the_captured_changes_of_debezium_message_by_message() {
    let Some(data) = data() else { return };
    let models = ["orders_current", "orders_by_tenant", "orders_history"];
    let Some(world) = World::new("orders", 1, Lake::Local, "orders", &models) else { return };
    let captured =
        std::fs::read_to_string(data.join("debezium/postgres_json.jsonl")).expect("messages");
    let messages = captured.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let messages: Vec<_> = messages.filter(|m| m["topic"] == "pgplain.inventory.orders").collect();
    assert_eq!(messages.len(), 8);
    let mut rows = BTreeMap::<(String, i64), (String, i64)>::new();
    let (mut versions, mut most) = (0, 0);
    for message in &messages {
        send(&world, message["key"].as_str(), message["value"].as_str());
        world.run_until_caught_up();
        if let Some(value) = message["value"].as_str() {
            let change: Value = serde_json::from_str(value).expect("JSON");
            let key = |row: &Value| {
                (
                    row["tenant"].as_str().expect("tenant").to_owned(),
                    row["order_id"].as_i64().expect("id"),
                )
            };
            match change["op"].as_str().expect("op") {
                "d" => drop(rows.remove(&key(&change["before"]))),
                "t" => rows.clear(),
                _ => {
                    let row = &change["after"];
                    let item = row["item"].as_str().expect("item").to_owned();
                    rows.insert(key(row), (item, row["qty"].as_i64().expect("qty")));
                    versions += 1;
                }
            }
        }
        most = most.max(rows.len());
        let current: Rows = rows
            .iter()
            .map(|((tenant, id), (item, qty))| vec![text(tenant), text(id), text(item), text(qty)])
            .collect();
        let found = "SELECT tenant, order_id, item, qty FROM orders_current ORDER BY 1, 2";
        assert_eq!(world.query(found), current, "{message}");
        let mut tenants = BTreeMap::<&str, (i64, i64, i64)>::new();
        for ((tenant, _), (_, qty)) in &rows {
            let group = tenants.entry(tenant).or_default();
            *group = (group.0 + 1, group.1 + qty, group.2 + i64::from(*qty == 0));
        }
        let tenants: Rows = tenants
            .iter()
            .map(|(tenant, (n, qty, empty))| vec![text(tenant), text(n), text(qty), text(empty)])
            .collect();
        let found = "SELECT tenant, orders, pieces, empty FROM orders_by_tenant ORDER BY 1";
        assert_eq!(world.query(found), tenants, "{message}");
        let held = "SELECT count(*), count(*) FILTER (WHERE valid_to IS NULL) FROM orders_history";
        assert_eq!(world.query(held), [vec![text(versions), text(rows.len())]], "{message}");
    }
    assert_eq!((most, versions, rows.len()), (3, 5, 0), "what the messages are");
    world.assert_proof();
}

/// The rows of one of Replicate's files, each a JSON object by the header.
fn written(file: &Path) -> Vec<BTreeMap<String, String>> {
    let packed = std::fs::File::open(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(packed).read_to_string(&mut text).expect("gzip");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader.deserialize().map(|row| row.expect("a row")).collect()
}

#[test]
fn edw_sample_is_the_full_load_and_the_changes_that_replicate_wrote() {
    let Some(data) = data() else { return };
    let models = ["edw_sample_current", "edw_sample_history"];
    let Some(world) = World::new("edw", 1, Lake::Local, "edw_sample", &models) else { return };
    // By row: position, then place in the topic; name.
    let mut rows = BTreeMap::<i64, ((String, usize), String)>::new();
    let (mut sent, mut versions) = (0, 0);
    for file in [
        "EDW.SAMPLE/LOAD1.csv.gz",
        "EDW.SAMPLE/LOAD2.csv.gz",
        "EDW.SAMPLE__ct/20211201-112233444.csv.gz",
        "EDW.SAMPLE__ct/20211201-122433444.csv.gz",
    ] {
        for row in written(&data.join("qlik").join(file)) {
            let header =
                |name: &str| row.get(&format!("header__{name}")).cloned().unwrap_or_default();
            let operation = match header("change_oper").as_str() {
                "" => "REFRESH",
                "I" => "INSERT",
                "U" => "UPDATE",
                other => panic!("{other} is not in these files"),
            };
            let columns: BTreeMap<_, _> =
                row.iter().filter(|(name, _)| !name.starts_with("header__")).collect();
            let message = serde_json::json!({
                "magic": "atMSG", "type": "DT", "headers": null, "messageSchemaId": null, "messageSchema": null,
                "message": {
                    "data": columns,
                    "beforeData": null,
                    "headers": {
                        "operation": operation,
                        "changeSequence": header("change_seq"),
                        "timestamp": header("timestamp"),
                    },
                },
            });
            send(&world, Some(&row["SAMPLE_ID"]), Some(&message.to_string()));
            // Positions are text of equal length, or none.
            let order = (header("change_seq"), sent);
            let id = row["SAMPLE_ID"].parse().expect("a number");
            if rows.get(&id).is_none_or(|(stored, _)| *stored < order) {
                let before = rows.insert(id, (order, row["SAMPLE_NAME"].clone()));
                // What an update leaves as it is makes no version.
                versions += i64::from(before.is_none_or(|(_, name)| name != row["SAMPLE_NAME"]));
            }
            sent += 1;
        }
    }
    assert_eq!(sent, 7);
    world.run_until_caught_up();
    let expected: Rows = rows
        .iter()
        .map(|(id, (_, name))| {
            let inserted =
                if *id == 3 { "2021-12-01 11:21:30.444444" } else { "2021-12-01 11:20:30.444444" };
            vec![text(id), text(name), text(inserted)]
        })
        .collect();
    assert_eq!(rows.len(), 5);
    let found = world.query(
        "SELECT sample_id, sample_name, inserted_at AT TIME ZONE 'UTC' FROM edw_sample_current ORDER BY sample_id",
    );
    assert_eq!(found, expected);
    let held = world.query(
        "SELECT sample_id, sample_name FROM edw_sample_history WHERE valid_to IS NULL ORDER BY sample_id",
    );
    assert_eq!(held, expected.iter().map(|row| row[..2].to_vec()).collect::<Vec<_>>());
    assert_eq!(world.number("SELECT count(*) FROM edw_sample_history"), versions);
    assert_eq!(versions, 6);
    world.assert_proof();
}

const COUNTIES: usize = 40;
const DAYS: i64 = 60;
/// 2020-03-01.
const BEGIN: i64 = 1_583_020_800;
const DAY: i64 = 86_400;

struct Report {
    at: i64,
    county: usize,
    cases: i64,
    deaths: i64,
}

fn place(county: usize) -> (&'static str, String) {
    (["New York", "Washington"][county % 2], format!("County \"{}\", the", county / 2))
}

/// Counts that grow, some of them taken back; up to three reports a day and none on some days.
fn reports() -> Vec<Report> {
    let mut random = SmallRng::seed_from_u64(2020);
    let mut reports = Vec::new();
    for county in 0..COUNTIES {
        let (mut cases, mut deaths) = (0, 0);
        for day in 0..DAYS {
            let mut hours: Vec<i64> = (0..24).collect();
            hours.shuffle(&mut random);
            for hour in &hours[..random.random_range(0..4)] {
                let back = random.random_bool(0.1);
                cases = (cases
                    + if back { -random.random_range(0..30) } else { random.random_range(0..40) })
                .max(0);
                deaths += random.random_range(0..3);
                let at = BEGIN + day * DAY + hour * 3600 + county as i64;
                reports.push(Report { at, county, cases, deaths });
            }
        }
    }
    // As they come: of all counties side by side, some a few days late.
    reports.sort_by_cached_key(|report| {
        report.at + if random.random_bool(0.1) { random.random_range(0..3 * DAY) } else { 0 }
    });
    reports
}

fn row(report: &Report) -> (String, String) {
    let (state, county) = place(report.county);
    let at = chrono::DateTime::from_timestamp(report.at, 0).expect("in the calendar");
    let fips = match report.county {
        0 => String::new(),
        n => format!("{n:05}"),
    };
    let row = format!(
        "{fips},\"{}\",{state},US,{},{},{}",
        county.replace('"', "\"\""),
        at.format("%Y-%m-%d %H:%M:%S"),
        report.cases,
        report.deaths
    );
    (format!("{state}/{county}"), row)
}

#[test]
fn counts_per_county_become_new_cases_by_day_and_the_latest_to_date() {
    let models = ["covid_counties_daily", "covid_counties_to_date"];
    let Some(world) = World::new("covid", 3, Lake::Local, "covid_counties", &models) else {
        return;
    };
    let reports = reports();
    let header = "FIPS,Admin2,Province_State,Country_Region,Last_Update,Confirmed,Deaths";
    let records = reports.iter().map(row);
    let mut service = world.follow(&[("HIGHWATER_CATCH_UP_INTERVAL", "100ms")]);
    world.produce(std::iter::once(("header".to_owned(), header.to_owned())).chain(records));
    let produced = reports.len() as i64 + 1;
    let outputs = "SELECT count(*) FROM (SELECT output FROM highwater.marks WHERE output <> 'lake' GROUP BY output
                   HAVING sum(next_offset) = ";
    eventually("all in the tables", || {
        world.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") == 1
            && world.number(&format!("{outputs}{produced}) AS done")) == 3
    });

    // Each day's last report by time, and the one before it of another day.
    let (mut days, mut latest) = (BTreeMap::new(), BTreeMap::<_, &Report>::new());
    for report in &reports {
        let day = (report.at - BEGIN) / DAY;
        let last: &mut &Report = days.entry((place(report.county), day)).or_insert(report);
        if last.at < report.at {
            *last = report;
        }
        let last = latest.entry(place(report.county)).or_insert(report);
        if last.at < report.at {
            *last = report;
        }
    }
    let (mut daily, mut negative) = (Rows::new(), 0);
    for (((state, county), day), last) in &days {
        let before = days.range(..((*state, county.clone()), *day)).next_back();
        let before =
            before.filter(|(key, _)| key.0 == (*state, county.clone())).map(|(_, report)| report);
        let cases = last.cases - before.map_or(0, |report| report.cases);
        let deaths = last.deaths - before.map_or(0, |report| report.deaths);
        negative += i64::from(cases < 0);
        daily.push(vec![text(state), text(county), text(day), text(cases), text(deaths)]);
    }
    daily.sort();
    let mut found = world.query(&format!(
        "SELECT state, county, (extract(epoch FROM window_start)::bigint - {BEGIN}) / {DAY}, new_cases, new_deaths
         FROM covid_counties_daily"
    ));
    found.sort();
    assert!(negative > 20 && daily.len() > 1_000);
    assert!(found == daily, "{:?}", found.iter().zip(&daily).find(|(a, b)| a != b));
    let counted = world.number("SELECT count(*) FROM covid_counties_daily WHERE new_cases < 0");
    assert_eq!(counted, negative);
    let (_, metrics) = service.get("/metrics");
    let negatives =
        metrics.lines().find(|line| line.starts_with("highwater_negative_deltas_total"));
    let negatives = negatives.and_then(|line| line.rsplit(' ').next()?.parse::<i64>().ok());
    assert!(negatives >= Some(negative), "{negatives:?} of {negative} and what was mended since");

    let to_date: Rows = latest
        .iter()
        .map(|((state, county), last)| {
            let fips = (last.county > 0).then(|| format!("{:05}", last.county));
            vec![text(state), text(county), fips, text(last.cases), text(last.deaths)]
        })
        .collect();
    let found = world.query(
        "SELECT state, county, fips, cases, deaths FROM covid_counties_to_date ORDER BY state, county",
    );
    assert_eq!(found, to_date);
    // Lifetime to date is what the days add up to.
    let apart = world.number(
        "SELECT count(*) FROM covid_counties_to_date t WHERE (cases, deaths) IS DISTINCT FROM
         (SELECT (sum(new_cases)::bigint, sum(new_deaths)::bigint) FROM covid_counties_daily d
          WHERE d.state = t.state AND d.county = t.county)",
    );
    assert_eq!(apart, 0);
    service.stop();
    world.assert_proof();
}
