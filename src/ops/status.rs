//! `highwater status`: marks, lag and totals, read from PostgreSQL and Kafka; the service may be
//! down. Where one answers at the address to listen on, what only it knows: what is fetched, why it
//! is not ready.

use super::{drift, http, kafka_settings, load, run::runtime, table};
use crate::{
    catalog::Catalog,
    config::Config,
    error::Result,
    record::{
        Offset, Output, Partition,
        gap::{self, Gap, PartitionLog},
    },
    source::kafka::Kafka,
    warehouse::{
        MarkRow, WatermarkRow,
        postgres::{Warehouse, WarehouseSettings},
        swap::newest,
    },
};
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

pub const KAFKA_WAIT: Duration = Duration::from_secs(3);

#[derive(Serialize)]
struct Whole {
    outputs: Vec<Line>,
    uploads: Vec<Uploads>,
    replays: Vec<Replay>,
    /// Of topics whose source's table is another one than they declare, and what to do about it.
    drift: Vec<drift::Told>,
    /// The answer to `/status` of the process that listens here; None: there is none.
    service: Option<Value>,
}

/// Files of a topic that nobody sees yet.
#[derive(Serialize)]
struct Uploads {
    topic: String,
    /// Their cut is committed.
    not_visible: u64,
    /// No cut has committed them: under way, or left by a crash.
    uploads: u64,
    /// As PostgreSQL writes it; None: there are none.
    since: Option<String>,
}

/// An output that is made anew, by a process that runs or has ended.
#[derive(Serialize)]
struct Replay {
    topic: String,
    output: String,
    /// Offsets.
    done: u64,
    of: u64,
    /// None: no process has taken it.
    owner: Option<String>,
    /// As PostgreSQL writes it.
    since: String,
}

#[derive(Serialize)]
struct Line {
    output: String,
    topic: String,
    partition: i32,
    mark: i64,
    end: Option<i64>,
    lag_records: Option<i64>,
    /// Not even read yet by the process that listens here; None: it does not read this partition.
    unread_records: Option<i64>,
    event_time_max_us: Option<i64>,
    /// Of the output over all partitions and processes, and the partition that holds it back.
    watermark_us: Option<i64>,
    held_back_by: Option<i32>,
    held_back_since_us: Option<i64>,
    committed_at_us: Option<i64>,
    accepted: u64,
    filtered: u64,
    late: u64,
    dead: u64,
    absent: u64,
    duplicate: u64,
    lost: u64,
    generation: i32,
    /// Why it cannot go on: offsets that Kafka has no more.
    gap: Option<String>,
    /// Why a snapshot of the source is not swapped into its table.
    snapshot: Option<String>,
    epoch: i64,
    owner: String,
}

/// Prints tables, or with `json` an object.
pub fn status(config: &Config, json: bool) -> Result<()> {
    let catalog = load(config)?;
    let runtime = runtime()?;
    let settings =
        WarehouseSettings { ca_file: config.warehouse_ca.clone(), ..WarehouseSettings::default() };
    let read: Result<_> = runtime.block_on(async {
        let warehouse = Warehouse::connect(config.warehouse()?, &settings).await?;
        warehouse.migrate().await?;
        let marks = warehouse.marks(None).await?;
        let watermarks = warehouse.watermarks(None).await?;
        let (_, rows) = warehouse.query_text(UPLOADS).await?;
        let uploads: Vec<Uploads> = rows.into_iter().map(uploads).collect();
        let (_, rows) = warehouse.query_text(REPLAYS).await?;
        let replays: Vec<Replay> = rows.into_iter().map(replay).collect();
        let held = held(&warehouse, &catalog).await?;
        // Files that contradict what is recorded are told by whoever needs them.
        let drifted = drift::open(&warehouse, &catalog).await.unwrap_or_else(|error| {
            eprintln!("{error}");
            Vec::new()
        });
        let service = http::ask(config.listen).await;
        Ok((marks, watermarks, uploads, replays, held, drifted, service))
    });
    let (marks, watermarks, uploads, replays, held, drifted, service) = read?;
    let logs = logs(config, &catalog, &marks);
    let ends = logs.iter().map(|(key, log)| (key.clone(), log.end)).collect();
    let gaps = gaps(&catalog, &marks, &logs);
    let sentence = |row: &MarkRow| {
        let gaps = gaps.get(&(row.topic.clone(), row.partition))?;
        let own = gaps.iter().any(|gap| gap.output == row.output);
        own.then(|| gap::sentence(&row.topic, gaps))
    };
    let line = |row: &MarkRow| Line {
        gap: sentence(row),
        snapshot: held.get(&row.output).cloned(),
        unread_records: service.as_ref().and_then(|service| unread(service, row)),
        ..line(row, &ends, &watermarks)
    };
    let outputs: Vec<Line> = marks.iter().map(line).collect();
    if json {
        let whole = Whole { outputs, uploads, replays, drift: drifted, service };
        let text = serde_json::to_string_pretty(&whole).expect("numbers and texts");
        println!("{text}");
    } else {
        print!("{}", render(&outputs));
        for ((topic, _), gaps) in &gaps {
            println!("{}", gap::sentence(topic, gaps));
        }
        held.values().for_each(|told| println!("{told}"));
        drifted.iter().flat_map(drift::Told::lines).for_each(|line| println!("{line}"));
        print!("{}", render_watermarks(&watermarks));
        print!("{}", render_uploads(&uploads));
        print!("{}", render_replays(&replays));
        println!("\n{}", told(config, service.as_ref()));
    }
    Ok(())
}

/// By model: which snapshot of its source waits for a person.
async fn held(warehouse: &Warehouse, catalog: &Catalog) -> Result<BTreeMap<Output, String>> {
    let mut held = BTreeMap::new();
    for topic in catalog.topics.values() {
        let models: Vec<_> =
            catalog.models_of(&topic.name).filter(|model| model.folding.is_some()).collect();
        if models.is_empty() {
            continue;
        }
        let loads = warehouse.loads(&topic.name).await?;
        let open = loads.last().filter(|load| load.to.is_none());
        for model in models {
            let (topic, name) = (&topic.name, &model.name);
            let told = match open {
                Some(load) => Some(format!(
                    "{topic}: load {} has begun and not ended: what comes since waits beside {name}, until \
                     `highwater snapshot end {topic}`",
                    load.number
                )),
                None => {
                    let rows = warehouse.snapshots_of(&model).await?;
                    newest(&rows).and_then(|row| row.sentence(&catalog.topics[topic], name))
                }
            };
            held.extend(told.map(|told| (Output::Model(name.clone()), told)));
        }
    }
    Ok(held)
}

const UPLOADS: &str = include_str!("../../sql/queries/unfinished_uploads.sql");

fn uploads(row: Vec<Option<String>>) -> Uploads {
    let [topic, not_visible, uploads, since] =
        <[Option<String>; 4]>::try_from(row).expect("four columns");
    let count = |text: Option<String>| text.and_then(|t| t.parse().ok()).unwrap_or_default();
    let topic = topic.unwrap_or_default();
    Uploads { topic, not_visible: count(not_visible), uploads: count(uploads), since }
}

const REPLAYS: &str = include_str!("../../sql/queries/replays.sql");

fn replay(row: Vec<Option<String>>) -> Replay {
    let [topic, output, done, of, owner, since] =
        <[Option<String>; 6]>::try_from(row).expect("six columns");
    let count = |text: Option<String>| text.and_then(|t| t.parse().ok()).unwrap_or_default();
    let text = Option::unwrap_or_default;
    let (topic, output, since) = (text(topic), text(output), text(since));
    Replay { topic, output, done: count(done), of: count(of), owner, since }
}

/// Records of the partition between its end and where the service has read to.
fn unread(service: &Value, row: &MarkRow) -> Option<i64> {
    let topics = service["topics"].as_array()?;
    let topic = topics.iter().find(|topic| topic["topic"] == *row.topic)?;
    let partitions = topic["partitions"].as_array()?;
    let own = partitions.iter().find(|p| p["partition"] == row.partition.0)?;
    Some((own["end"].as_i64()? - own["fetched"].as_i64()?).max(0))
}

/// A sentence on the process that listens here.
fn told(config: &Config, service: Option<&Value>) -> String {
    let Some(service) = service else {
        return format!("no service answers at {}", config.listen);
    };
    let seconds = service["uptime_seconds"].as_u64().unwrap_or_default();
    let begun = format!("the service at {} runs for {seconds} s and is", config.listen);
    match service["not_ready"].as_str() {
        None => format!("{begun} ready"),
        Some(why) => format!("{begun} not ready: {why}"),
    }
}

/// Topics with files that nobody sees yet; empty: there are none.
fn render_uploads(uploads: &[Uploads]) -> String {
    let waiting = uploads.iter().filter(|of| of.not_visible + of.uploads > 0);
    let row = |of: &Uploads| {
        let since = of.since.clone().unwrap_or_default();
        vec![of.topic.clone(), of.not_visible.to_string(), of.uploads.to_string(), since]
    };
    let rows: Vec<_> = waiting.map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let head = ["topic", "files not visible yet", "uploads under way", "since"];
    format!("\n{}", table::render(&head, &rows))
}

/// Empty: nothing is made anew.
fn render_replays(replays: &[Replay]) -> String {
    if replays.is_empty() {
        return String::new();
    }
    let row = |of: &Replay| {
        let owner = of.owner.as_deref().map(short).unwrap_or_default();
        let done = format!("{} of {} offsets", of.done, of.of);
        vec![of.topic.clone(), of.output.clone(), done, owner, of.since.clone()]
    };
    let head = ["topic", "made anew", "done", "owner", "since"];
    format!("\n{}", table::render(&head, &replays.iter().map(row).collect::<Vec<_>>()))
}

/// Where the logs of declared topics end, as far as Kafka tells.
pub type Ends = BTreeMap<(Arc<str>, Partition), Offset>;

/// What Kafka says of the partitions that have marks.
type Logs = BTreeMap<(Arc<str>, Partition), PartitionLog>;

pub fn client(config: &Config) -> Result<Arc<Kafka>> {
    Kafka::new(&kafka_settings(config, 1 << 20), Duration::ZERO)
}

pub fn ends(config: &Config, catalog: &Catalog, marks: &[MarkRow]) -> Ends {
    logs(config, catalog, marks).into_iter().map(|(key, log)| (key, log.end)).collect()
}

/// Of a broker that is away nothing is known; the marks are told all the same.
fn logs(config: &Config, catalog: &Catalog, marks: &[MarkRow]) -> Logs {
    let mut logs = Logs::new();
    let kafka = match client(config) {
        Ok(kafka) => kafka,
        Err(error) => {
            eprintln!("{error}");
            return logs;
        }
    };
    for topic in catalog.topics.values() {
        let of_topic = marks.iter().filter(|row| row.topic == topic.name);
        let partitions: BTreeSet<Partition> = of_topic.map(|row| row.partition).collect();
        if partitions.is_empty() {
            continue;
        }
        let partitions: Vec<_> = partitions.into_iter().collect();
        match kafka.logs(&topic.kafka_topic, &partitions, KAFKA_WAIT) {
            Ok(found) => {
                logs.extend(found.into_iter().map(|(p, log)| ((topic.name.clone(), p), log)));
            }
            Err(error) => {
                eprintln!("{error}");
                return logs;
            }
        }
    }
    logs
}

/// Marks were read before the logs' ends were asked: what is behind an end is behind it.
fn gaps(
    catalog: &Catalog,
    marks: &[MarkRow],
    logs: &Logs,
) -> BTreeMap<(Arc<str>, Partition), Vec<Gap>> {
    let mut gaps: BTreeMap<_, Vec<Gap>> = BTreeMap::new();
    for row in marks {
        // Nobody goes on with the marks of a model that is not declared any more.
        let declared = match &row.output {
            Output::Model(name) => catalog.models.contains_key(name),
            Output::Lake | Output::DeadLetters => true,
        };
        let key = (row.topic.clone(), row.partition);
        let Some(log) = logs.get(&key).filter(|_| declared) else { continue };
        if let Some(gap) = row.gap(log) {
            gaps.entry(key).or_default().push(gap);
        }
    }
    gaps
}

fn line(row: &MarkRow, ends: &Ends, watermarks: &[WatermarkRow]) -> Line {
    let own = watermarks.iter().find(|w| w.topic == row.topic && w.output == row.output);
    let end = ends.get(&(row.topic.clone(), row.partition)).map(|o| o.0);
    let fates = row.mark.fates;
    Line {
        output: row.output.to_string(),
        topic: row.topic.to_string(),
        partition: row.partition.0,
        mark: row.mark.next.0,
        end,
        lag_records: end.map(|end| (end - row.mark.next.0).max(0)),
        unread_records: None,
        event_time_max_us: row.mark.event_time_max.map(|t| t.0),
        watermark_us: own.and_then(|w| w.watermark).map(|t| t.0),
        held_back_by: own.map(|w| w.held_back_by.0),
        held_back_since_us: own.map(|w| w.since),
        committed_at_us: row.committed_at,
        accepted: fates.accepted,
        filtered: fates.filtered,
        late: fates.late,
        dead: fates.dead,
        absent: fates.absent,
        duplicate: fates.duplicate,
        lost: fates.lost,
        generation: row.generation,
        gap: None,
        snapshot: None,
        epoch: row.mark.epoch.0,
        owner: row.owner.clone(),
    }
}

fn time(us: Option<i64>) -> String {
    us.and_then(chrono::DateTime::from_timestamp_micros)
        .map_or(String::new(), |t| t.format("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// How far event time has come, and which partition holds it back; empty before the first mark.
fn render_watermarks(watermarks: &[WatermarkRow]) -> String {
    if watermarks.is_empty() {
        return String::new();
    }
    let row = |w: &WatermarkRow| {
        vec![
            w.topic.to_string(),
            w.output.to_string(),
            w.watermark.map_or("none".to_owned(), |t| time(Some(t.0))),
            format!("partition {}", w.held_back_by.0),
            time(Some(w.since)),
        ]
    };
    let head = ["topic", "output", "watermark", "held back by", "since"];
    format!("\n{}", table::render(&head, &watermarks.iter().map(row).collect::<Vec<_>>()))
}

/// The host, and enough of the name of its life.
fn short(owner: &str) -> String {
    match owner.rsplit_once('/') {
        Some((host, life)) => format!("{host}/{}", life.chars().take(8).collect::<String>()),
        None => owner.to_owned(),
    }
}

fn render(lines: &[Line]) -> String {
    let head = [
        "topic",
        "partition",
        "output",
        "mark",
        "lag",
        "unread",
        "accepted",
        "filtered",
        "late",
        "dead",
        "absent",
        "duplicate",
        "lost",
        "newest event",
        "committed",
        "epoch",
        "owner",
    ];
    let row = |l: &Line| {
        vec![
            l.topic.clone(),
            l.partition.to_string(),
            l.output.clone(),
            l.mark.to_string(),
            l.lag_records.map_or(String::new(), |lag| lag.to_string()),
            l.unread_records.map_or(String::new(), |unread| unread.to_string()),
            l.accepted.to_string(),
            l.filtered.to_string(),
            l.late.to_string(),
            l.dead.to_string(),
            l.absent.to_string(),
            l.duplicate.to_string(),
            l.lost.to_string(),
            time(l.event_time_max_us),
            time(l.committed_at_us),
            l.epoch.to_string(),
            short(&l.owner),
        ]
    };
    table::render(&head, &lines.iter().map(row).collect::<Vec<_>>())
}
