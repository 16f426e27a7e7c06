//! `highwater demo`: the whole job in one process: an embedded broker, an embedded PostgreSQL, a
//! lake in a folder. Nothing is needed and nothing stays, unless asked for.

mod taps;

use super::{
    metrics, run,
    scratch::Scratch,
    service::{Resources, Service},
    table,
};
use crate::pipeline::References;
use crate::{
    catalog,
    config::Config,
    error::{Error, Result},
    source::broker::Broker,
    warehouse::postgres::Warehouse,
};
use std::{
    path::Path,
    time::{Duration, Instant},
};

const TOPIC: &str = "taps";
const PARTITIONS: i32 = 6;
const PATIENCE: Duration = Duration::from_secs(60);

/// The repository's own files, for a binary that runs elsewhere.
const FILES: [(&str, &str); 4] = [
    ("topics/taps.toml", include_str!("../../../topics/taps.toml")),
    (
        "sql/models/latest_tap_by_device.sql",
        include_str!("../../../sql/models/latest_tap_by_device.sql"),
    ),
    ("sql/models/taps_by_mode.sql", include_str!("../../../sql/models/taps_by_mode.sql")),
    ("sql/models/taps_by_stop_5m.sql", include_str!("../../../sql/models/taps_by_stop_5m.sql")),
];

/// Generates taps, runs topics and models to the end, prints what came out and the proof.
pub fn demo(mut config: Config, keep: bool) -> Result<()> {
    let begun = Instant::now();
    let home = Scratch::new("highwater-demo", keep)?;
    if !config.topics.join("taps.toml").exists() {
        write_files(&home.path)?;
        config.topics = home.path.join("topics");
        config.models = home.path.join("sql/models");
    }
    config.only = vec![TOPIC.to_owned()];
    config.group = "demo".to_owned();
    config.warehouse = Some(format!("embedded:{}", home.path.join("postgres").display()));
    config.lake = Some(format!("file://{}", home.path.join("lake").display()));
    config.pii_secret.get_or_insert_with(|| b"a secret of the demo, no more".as_slice().into());

    let broker = Broker::start()?;
    broker.create_topic(TOPIC, PARTITIONS)?;
    let taps = taps::generate();
    broker.produce(TOPIC, PARTITIONS, &taps)?;
    config.brokers = broker.servers();
    config.topic_ids = false;
    println!("{} taps are in the embedded broker, in {PARTITIONS} partitions", taps.len());

    let runtime = run::runtime()?;
    metrics::install(config.memory)?;
    let catalog = super::load(&config)?;
    let (warehouse, store, catalog) = runtime.block_on(run::open(&catalog, &config))?;
    let running = Instant::now();
    let handle = runtime.handle().clone();
    let resources = Resources {
        warehouse: warehouse.clone(),
        store: store.clone(),
        references: References::default(),
        known: std::collections::BTreeMap::new(),
    };
    let service = Service::start(&catalog, &config, resources, true, &handle)?;
    let waited = runtime.block_on(wait(&service));
    let took = running.elapsed();
    service.end(Duration::from_secs(8))?;
    waited?;
    let process = metrics::Process::now();
    println!(
        "committed in {:.1} s ({:.0} records/s); {:.1} CPU-seconds, {} MiB at most\n",
        took.as_secs_f64(),
        taps.len() as f64 / took.as_secs_f64(),
        process.cpu_seconds,
        process.resident_bytes_max >> 20,
    );
    runtime.block_on(async {
        show_models(&warehouse, &catalog).await?;
        show_dead_letters(&warehouse).await?;
        if let Some(store) = &store {
            show_lake(store).await?;
        }
        prove(&warehouse, taps.len()).await
    })?;
    println!("\ndone in {:.1} s", begun.elapsed().as_secs_f64());
    if keep {
        println!("kept in {}", home.path.display());
    }
    runtime.block_on(warehouse.close());
    Ok(())
}

async fn wait(service: &Service) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !service.is_caught_up().await? {
        if service.has_stopped_topic() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::halt(format!("not caught up within {PATIENCE:?}")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn show(warehouse: &Warehouse, title: &str, sql: &str) -> Result<Vec<Vec<String>>> {
    let (head, rows) = warehouse.query_text(sql).await?;
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|row| row.into_iter().map(Option::unwrap_or_default).collect())
        .collect();
    println!("{title}");
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    println!("{}", table::render(&head, &rows));
    Ok(rows)
}

async fn show_models(warehouse: &Warehouse, catalog: &catalog::Catalog) -> Result<()> {
    for model in catalog.models.values() {
        let shown = model.columns.iter().filter(|c| !c.name.starts_with('_'));
        let columns: Vec<String> = shown.map(|c| format!("\"{}\"", c.name)).collect();
        let (_, count) =
            warehouse.query_text(&format!("SELECT count(*) FROM \"{}\"", model.name)).await?;
        let count = count.first().and_then(|row| row[0].clone()).unwrap_or_default();
        let sql = format!(
            "SELECT {} FROM \"{}\" ORDER BY 1, 2, 3 LIMIT 5",
            columns.join(", "),
            model.name
        );
        show(warehouse, &format!("table {}: {count} rows, the first 5", model.name), &sql).await?;
    }
    Ok(())
}

async fn show_dead_letters(warehouse: &Warehouse) -> Result<()> {
    let sql = include_str!("../../../sql/queries/rejects_by_reason.sql");
    show(warehouse, "refused, and why", sql).await.map(drop)
}

async fn show_lake(store: &crate::lake::store::Store) -> Result<()> {
    let files = store.list("").await?;
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    println!("lake: {} files, {} KiB", files.len(), bytes >> 10);
    for (path, bytes) in files.iter().take(8) {
        println!("  {path}  {} KiB", bytes >> 10);
    }
    if files.len() > 8 {
        println!("  … {} more", files.len() - 8);
    }
    println!();
    Ok(())
}

/// Every offset has one fate in every output, and what the outputs hold agrees with it.
async fn prove(warehouse: &Warehouse, produced: usize) -> Result<()> {
    let sql = include_str!("../../../sql/queries/proof.sql");
    let rows = show(
        warehouse,
        "proof: offsets passed = accepted + filtered + late + dead + absent + duplicate + lost",
        sql,
    )
    .await?;
    let wrong = rows.iter().find(|row| {
        row.last().is_none_or(|verdict| verdict != "adds up") || row[2] != produced.to_string()
    });
    match wrong {
        None if !rows.is_empty() => {
            println!("every one of the {produced} offsets has exactly one fate in each output");
            Ok(())
        }
        _ => Err(Error::halt("the offsets do not add up: this is a defect, please report it")),
    }
}

fn write_files(home: &Path) -> Result<()> {
    for (name, text) in FILES {
        let path = home.join(name);
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|e| Error::config(format!("write {}", path.display())).because(e))?;
    }
    Ok(())
}
