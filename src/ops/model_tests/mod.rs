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
use fixture::Fixture;
use std::{fs, path::PathBuf, time::Instant};

/// Of the file's name, in the directory of models.
const SUFFIX: &str = ".test.toml";
/// Where no secret is set: what is hashed must be the same in each run.
const SECRET: &[u8] = b"the secret of tests";

/// Plays the fixtures of these models, or of all. Each failure is printed.
///
/// # Errors
/// `Config`: a fixture says what no model or topic knows. `Halt`: a test failed.
pub fn test(config: &Config, models: &[String]) -> Result<()> {
    let begun = Instant::now();
    let runtime = run::runtime()?;
    // Beside the reading of files.
    let opening = runtime.spawn(database::open());
    let catalog = load(config)?;
    let fixtures = read(config, &catalog, models)?;
    if fixtures.is_empty() {
        return Err(Error::config(format!(
            "no tests: give a model's in {}",
            config.models.join(format!("NAME{SUFFIX}")).display()
        )));
    }
    let (mut passed, mut failed) = (0, 0);
    let played: Result<()> = runtime.block_on(async {
        let opened = opening.await;
        let database =
            opened.map_err(|e| Error::halt("open the database of tests").because(e))??;
        let warehouse = &database.warehouse;
        let secret = config.pii_secret.clone().unwrap_or_else(|| SECRET.into());
        for fixture in &fixtures {
            for test in &fixture.tests {
                let here = |e: Error| {
                    let place = format!("{}: {}: {e}", fixture.file.display(), test.name);
                    Error { kind: e.kind, ..Error::config(place) }
                };
                play::play(warehouse, fixture, test, Secret(secret.clone())).await.map_err(here)?;
                let wrong = outcome::differences(warehouse, fixture, test).await.map_err(here)?;
                match wrong.is_empty() {
                    true => passed += 1,
                    false => {
                        failed += 1;
                        println!("{}: {}: FAILED\n{wrong}", fixture.file.display(), test.name);
                    }
                }
                warehouse.empty().await?;
            }
        }
        database.warehouse.close().await;
        Ok(())
    });
    played?;
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
