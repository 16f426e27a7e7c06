//! `highwater status`: marks, lag and totals, read from PostgreSQL and Kafka; the service may be
//! down.

use super::{load, run::runtime, table};
use crate::{
    catalog::Catalog,
    config::Config,
    error::Result,
    record::{Offset, Partition},
    source::kafka::{Kafka, KafkaSettings},
    warehouse::{
        MarkRow, WatermarkRow,
        postgres::{Warehouse, WarehouseSettings},
    },
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

const KAFKA_WAIT: Duration = Duration::from_secs(3);

#[derive(Serialize)]
struct Line {
    output: String,
    topic: String,
    partition: i32,
    mark: i64,
    end: Option<i64>,
    lag_records: Option<i64>,
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
    epoch: i64,
    owner: String,
}

/// Prints a table, or with `json` an array of objects.
pub fn status(config: &Config, json: bool) -> Result<()> {
    let catalog = load(config)?;
    let runtime = runtime()?;
    let settings =
        WarehouseSettings { ca_file: config.warehouse_ca.clone(), ..WarehouseSettings::default() };
    let read: Result<_> = runtime.block_on(async {
        let warehouse = Warehouse::connect(config.warehouse()?, &settings).await?;
        warehouse.migrate().await?;
        Ok((warehouse.marks(None).await?, warehouse.watermarks(None).await?))
    });
    let (marks, watermarks) = read?;
    let ends = ends(config, &catalog, &marks);
    let lines: Vec<Line> = marks.iter().map(|row| line(row, &ends, &watermarks)).collect();
    if json {
        let text = serde_json::to_string_pretty(&lines).expect("numbers and texts");
        println!("{text}");
    } else {
        print!("{}", render(&lines));
        print!("{}", render_watermarks(&watermarks));
    }
    Ok(())
}

/// Where the logs of declared topics end, as far as Kafka tells.
pub type Ends = BTreeMap<(Arc<str>, Partition), Offset>;

/// Of a broker that is away nothing is known; the marks are told all the same.
pub fn ends(config: &Config, catalog: &Catalog, marks: &[MarkRow]) -> Ends {
    let settings = KafkaSettings {
        brokers: config.brokers.clone(),
        group: config.group.clone(),
        properties: config.kafka_properties.clone(),
        fetch_bytes: 1 << 20,
    };
    let mut ends = Ends::new();
    let kafka = match Kafka::new(&settings, HashMap::new(), Duration::ZERO) {
        Ok(kafka) => kafka,
        Err(error) => {
            eprintln!("{error}");
            return ends;
        }
    };
    for row in marks {
        let Some(topic) = catalog.topics.get(&row.topic) else { continue };
        let key = (row.topic.clone(), row.partition);
        if ends.contains_key(&key) {
            continue;
        }
        match kafka.log(&topic.kafka_topic, row.partition, KAFKA_WAIT) {
            Ok((_, end)) => drop(ends.insert(key, end)),
            Err(error) => {
                eprintln!("{error}");
                return ends;
            }
        }
    }
    ends
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

fn render(lines: &[Line]) -> String {
    let head = [
        "topic",
        "partition",
        "output",
        "mark",
        "lag",
        "accepted",
        "filtered",
        "late",
        "dead",
        "absent",
        "duplicate",
        "newest event",
        "committed",
        "epoch",
    ];
    let row = |l: &Line| {
        vec![
            l.topic.clone(),
            l.partition.to_string(),
            l.output.clone(),
            l.mark.to_string(),
            l.lag_records.map_or(String::new(), |lag| lag.to_string()),
            l.accepted.to_string(),
            l.filtered.to_string(),
            l.late.to_string(),
            l.dead.to_string(),
            l.absent.to_string(),
            l.duplicate.to_string(),
            time(l.event_time_max_us),
            time(l.committed_at_us),
            l.epoch.to_string(),
        ]
    };
    table::render(&head, &lines.iter().map(row).collect::<Vec<_>>())
}
