//! The house rules that no compiler knows: import law, edges, files in use, names of metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => walk(&path, ending, found),
                false if path.to_string_lossy().ends_with(ending) => found.push(path),
                false => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), ending, &mut found);
    found.sort();
    assert!(!found.is_empty(), "nothing ends in {ending} below {folder}");
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Stage of a source file: its folder, or the stem of a file at the top.
fn stage(path: &Path) -> String {
    let inner = path.strip_prefix(root().join("src")).expect("below src");
    let first = inner.components().next().expect("a name");
    first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// Every `crate::STAGE` a text names, also within `use crate::{a::…, b::…}`.
fn imports(text: &str) -> BTreeSet<String> {
    let mut stages = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let (mut depth, mut word, mut fresh) = (0, String::new(), true);
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => fresh = true,
                    c if depth == 0 && fresh && (c.is_alphanumeric() || c == '_') => word.push(c),
                    _ if !word.is_empty() => {
                        stages.insert(std::mem::take(&mut word));
                        fresh = false;
                    }
                    _ => {}
                }
            }
            if !word.is_empty() {
                stages.insert(word);
            }
        } else {
            stages.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    stages
}

#[test]
fn a_stage_imports_only_stages_above_it() {
    let order: [&[&str]; 9] = [
        &["error"],
        &["record"],
        &["config", "catalog"],
        &["source", "decode", "event_time"],
        &["compute"],
        &["cut"],
        &["lake", "warehouse"],
        &["pipeline"],
        &["ops"],
    ];
    let rank: BTreeMap<&str, usize> = order
        .iter()
        .enumerate()
        .flat_map(|(rank, names)| names.iter().map(move |name| (*name, rank)))
        .collect();
    for path in files("src", ".rs") {
        let own = stage(&path);
        let Some(own_rank) = rank.get(own.as_str()) else {
            assert!(own == "main" || own == "lib", "{} is in no stage", path.display());
            continue;
        };
        for other in imports(&read(&path)) {
            let Some(other_rank) = rank.get(other.as_str()) else { continue };
            assert!(
                other == own || other_rank < own_rank,
                "{} imports {other}, which is not above {own}",
                path.display()
            );
        }
    }
}

#[test]
fn the_import_reader_sees_lists_and_paths() {
    let text =
        "use crate::{\n    catalog::{Model, Topic},\n    error,\n};\nlet x = crate::lake::y;";
    let found: Vec<String> = imports(text).into_iter().collect();
    assert_eq!(found, ["catalog", "error", "lake"]);
}

#[test]
fn only_an_edge_names_its_outside_system() {
    let edges: [(&str, &[&str]); 8] = [
        ("rdkafka::", &["source/kafka/", "source/broker.rs"]),
        ("object_store::", &["lake/store.rs", "lake/services.rs"]),
        ("reqwest::", &["source/registry.rs", "ops/http.rs"]),
        (
            "std::fs",
            &[
                "lake/directory.rs",
                "catalog/mod.rs",
                "config.rs",
                "ops/",
                "source/registry.rs",
                "warehouse/",
            ],
        ),
        ("tokio_postgres::", &["warehouse/"]),
        ("axum::", &["ops/http.rs"]),
        ("metrics_exporter_prometheus::", &["ops/metrics.rs", "ops/http.rs"]),
        ("std::env::var", &["config.rs"]),
    ];
    for path in files("src", ".rs") {
        let text = read(&path);
        let place = path.strip_prefix(root().join("src")).expect("below src").to_string_lossy();
        // Tests may look at what the product may not.
        if place.ends_with("tests.rs") || place.contains("/tests/") {
            continue;
        }
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (system, allowed) in edges {
            let named = product.contains(system);
            let is_edge = allowed.iter().any(|edge| place.starts_with(edge));
            assert!(!named || is_edge, "{place} names {system}, which only {allowed:?} may");
        }
    }
}

#[test]
fn every_sql_file_is_used_by_the_binary_or_told_of() {
    let sources: String = files("src", ".rs").iter().map(|p| read(p)).collect();
    let readme = read(&root().join("README.md"));
    for path in files("sql", ".sql") {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let folder = path.parent().and_then(Path::file_name).expect("a folder");
        // Models are found by reading their folder; a test of the catalog loads them all.
        if folder == "models" {
            continue;
        }
        // Queries are for operators, too.
        if folder == "queries" && readme.contains(&name) {
            continue;
        }
        // Migrations are listed without their ending.
        let name = name.trim_end_matches(".sql");
        assert!(sources.contains(name), "{} is used nowhere", path.display());
    }
}

#[test]
fn a_source_file_opens_with_its_front_page() {
    for path in files("src", ".rs") {
        let text = read(&path);
        assert!(text.starts_with("//! "), "{} has no front page", path.display());
    }
}

/// Names of everything that runs as a test.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in files("src", ".rs").into_iter().chain(files("tests", ".rs")) {
        let text = read(&path);
        let marks = ["#[test]", "#[tokio::test"];
        for (at, mark) in marks.iter().flat_map(|mark| text.match_indices(mark)) {
            let rest = &text[at + mark.len()..];
            let Some((_, name)) = rest.split_once("fn ") else { continue };
            names.insert(name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    names
}

/// Rows of the tables on a front page, cell by cell.
fn table_rows(text: &str) -> Vec<Vec<&str>> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | ")?.strip_suffix(" |"));
    rows.map(|row| row.split(" | ").collect()).collect()
}

/// What stands in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_row_of_the_crash_table_names_a_test_that_exists() {
    let tests = tests();
    let text = read(&root().join("src/cut/mod.rs"));
    let rows = table_rows(&text);
    let rows = rows.iter().skip_while(|row| row[0] != "after").skip(2).collect::<Vec<_>>();
    assert!(rows.len() >= 18, "the crash table has {} rows", rows.len());
    for row in rows {
        assert_eq!(row.len(), 4, "{row:?}");
        let named: Vec<_> = quoted(row[3]).collect();
        assert!(!named.is_empty(), "no test shows what follows after {:?}", row[0]);
        for name in named {
            assert!(tests.contains(name), "after {:?}: there is no test {name}", row[0]);
        }
    }
}

#[test]
fn the_table_of_invariants_names_what_exists() {
    let tests = tests();
    let text = read(&root().join("src/lib.rs"));
    let rows = table_rows(&text);
    let rows = rows.iter().skip_while(|row| row[0] != "number").skip(2);
    let (mut invariants, mut places) = (0, 0);
    for row in rows {
        invariants += 1;
        for name in row[1..].iter().flat_map(|cell| quoted(cell)) {
            let is_place = name.ends_with(".rs") || name.ends_with(".sql") || name.contains("/");
            if is_place {
                let found = ["", "src", "tests", "sql/warehouse", "sql/migrations", "sql/queries"]
                    .iter()
                    .any(|folder| root().join(folder).join(name).exists());
                assert!(found, "{}: {name} is not there", row[0]);
                places += 1;
            }
            // A sentence in snake_case is a test.
            let is_word =
                name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if is_word && name.matches('_').count() >= 3 {
                let is_constraint = files("sql", ".sql").iter().any(|p| read(p).contains(name));
                let is_function =
                    || files("src", ".rs").iter().any(|p| read(p).contains(&format!("fn {name}")));
                assert!(
                    tests.contains(name) || is_constraint || is_function(),
                    "{}: {name} is no test",
                    row[0]
                );
            }
        }
    }
    assert!(invariants >= 30 && places >= 40, "{invariants} invariants, {places} places");
}
