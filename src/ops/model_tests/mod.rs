//! `highwater test`: models against written events, without any service.
//!
//! Owns: which fixtures there are, the report. Does not own: how events become rows. That is the
//! service's own: the same decoder, the same lane of tables, the same transactions, on an embedded
//! PostgreSQL that is thrown away afterwards; so a fixture that passes here passes there.
//!
//! ```text
//! sql/models/NAME.test.toml ─► fixture ─► play ─► outcome: rows, final, rejects, fates that differ
//! ```

mod database;
mod fixture;
mod outcome;
mod play;

use super::{load, model, names, run, told};
use crate::{
    catalog::{Catalog, Mistake},
    config::Config,
    decode::Secret,
    error::{Error, Result},
};
use database::Database;
use fixture::Fixture;
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};
use tokio::task::{JoinError, JoinHandle};

/// Of the file's name, in the directory of models.
const SUFFIX: &str = ".test.toml";
/// Where no secret is set: what is hashed must be the same in each run.
const SECRET: &[u8] = b"the secret of tests";

/// Beside each other, once opening one is cheap.
const DATABASES: usize = 2;

/// What is to be played, by whoever comes next.
struct All {
    fixtures: Vec<Fixture>,
    secret: Arc<[u8]>,
    next: AtomicUsize,
}

/// By number: fixture and test, and what was wrong.
type Outcomes = BTreeMap<usize, (usize, usize, String)>;

impl All {
    async fn play(self: Arc<Self>, opened: JoinHandle<Result<Database>>) -> Result<Outcomes> {
        let database = joined(opened.await)?;
        let warehouse = &database.warehouse;
        let places: Vec<_> = self.fixtures.iter().enumerate().collect();
        let places = places.into_iter().flat_map(|(at, fixture)| {
            fixture.tests.iter().enumerate().map(move |(number, test)| (at, fixture, number, test))
        });
        let places: Vec<_> = places.collect();
        let mut outcomes = Outcomes::new();
        loop {
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((at, fixture, number, test)) = places.get(next) else { break };
            let here = |e: Error| {
                let place = format!("{}: {}: {e}", fixture.file.display(), test.name);
                Error { kind: e.kind, ..Error::config(place) }
            };
            let secret = Secret(self.secret.clone());
            play::play(warehouse, fixture, test, secret).await.map_err(here)?;
            let wrong = outcome::differences(warehouse, fixture, test).await.map_err(here)?;
            outcomes.insert(next, (*at, *number, wrong));
            warehouse.empty().await?;
        }
        database.warehouse.close().await;
        Ok(outcomes)
    }
}

fn joined<T>(done: std::result::Result<Result<T>, JoinError>) -> Result<T> {
    done.map_err(|e| Error::halt("play tests of models").because(e))?
}

/// Plays the fixtures of these models, or of all. Each failure is printed.
///
/// # Errors
/// `Config`: a fixture says what no model or topic knows. `Halt`: a test failed.
pub fn test(config: &Config, models: &[String]) -> Result<()> {
    let begun = Instant::now();
    let runtime = run::runtime()?;
    let databases = if database::is_kept() { DATABASES } else { 1 };
    // Beside the reading of files.
    let opening: Vec<_> = (0..databases).map(|n| runtime.spawn(database::open(n))).collect();
    let catalog = load(config)?;
    let fixtures = read(config, &catalog, models)?;
    if fixtures.is_empty() {
        return Err(Error::config(format!(
            "no tests: give a model's in {}",
            config.models.join(format!("NAME{SUFFIX}")).display()
        )));
    }
    let secret = config.pii_secret.clone().unwrap_or_else(|| SECRET.into());
    let all = Arc::new(All { fixtures, secret, next: AtomicUsize::new(0) });
    let playing: Vec<_> =
        opening.into_iter().map(|opened| runtime.spawn(all.clone().play(opened))).collect();
    let mut outcomes = BTreeMap::new();
    for played in playing {
        outcomes.extend(joined(runtime.block_on(played))?);
    }
    let (mut passed, mut failed) = (0, 0);
    for (fixture, test, wrong) in outcomes.into_values() {
        match wrong.is_empty() {
            true => passed += 1,
            false => {
                failed += 1;
                let fixture = &all.fixtures[fixture];
                let name = &fixture.tests[test].name;
                println!("{}: {name}: FAILED\n{wrong}", fixture.file.display());
            }
        }
    }
    let fixtures = &all.fixtures;
    let untested =
        catalog.models.keys().filter(|name| fixtures.iter().all(|f| f.model.name != **name));
    let untested: Vec<&str> = untested.map(|name| &**name).collect();
    if models.is_empty() && !untested.is_empty() {
        println!("without tests: {}", untested.join(", "));
    }
    println!("{passed} passed, {failed} failed, in {:.1} s", begun.elapsed().as_secs_f64());
    match failed {
        0 => Ok(()),
        _ => Err(Error::halt(format!("{failed} of {} tests failed", passed + failed))),
    }
}

/// The fixtures in order of their names; every mistake is printed.
fn read(config: &Config, catalog: &Catalog, wanted: &[String]) -> Result<Vec<Fixture>> {
    let files = files(config)?;
    for name in wanted {
        model(catalog, name)?;
        if files.iter().any(|(_, model)| model == name) {
            continue;
        }
        let folder = config.models.display();
        return Err(Error::config(format!("model {name} has no {name}{SUFFIX} in {folder}")));
    }
    let mut mistakes = Vec::new();
    let mut fixtures = Vec::new();
    for (file, name) in files {
        if !wanted.is_empty() && !wanted.contains(&name) {
            continue;
        }
        let Some(model) = catalog.models.get(name.as_str()) else {
            // Of a topic that `--topic` leaves out.
            if config.only.is_empty() {
                let what = format!("there is no model `{name}`. Allowed: {}", names(catalog));
                mistakes.push(Mistake { file, line: 1, what });
            }
            continue;
        };
        let text = fs::read_to_string(&file)
            .map_err(|e| Error::config(format!("read {}", file.display())).because(e))?;
        match Fixture::read(&file, &text, catalog, model) {
            Ok(fixture) => fixtures.push(fixture),
            Err(wrong) => mistakes.extend(wrong),
        }
    }
    match mistakes.is_empty() {
        true => Ok(fixtures),
        false => Err(told(mistakes, "tests of models")),
    }
}

/// Each fixture's file, with the name of its model.
fn files(config: &Config) -> Result<Vec<(PathBuf, String)>> {
    let failed = |e| Error::config(format!("read {}", config.models.display())).because(e);
    let mut files = Vec::new();
    for entry in fs::read_dir(&config.models).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let name = file.file_name().and_then(|name| name.to_str());
        if let Some(model) = name.and_then(|name| name.strip_suffix(SUFFIX)) {
            let model = model.to_owned();
            files.push((file, model));
        }
    }
    files.sort();
    Ok(files)
}
