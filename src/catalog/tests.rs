//! The stage as a whole: declarations in, a catalog or all mistakes out.

use super::*;
use std::path::Path;

mod definitions;
mod drift;
mod folding;
mod formats;
mod model_mistakes;
mod models;
mod topics;

/// A topic with a column of every type.
const EVENTS: &str = r#"topic = "events"
format = "json"
event_time = "at"

[columns]
name   = "text"
n      = "integer"
small  = "smallint"
big    = { type = "bigint", optional = true }
amount = "numeric(18,2)"
wide   = "numeric(30,2)"
ratio  = "double precision"
single = "real"
flag   = "boolean"
doc    = "jsonb"
id     = "uuid"
day    = "date"
at     = "timestamptz"
card   = { type = "text", pii = "hash" }
secret = { type = "text", pii = "drop" }
"#;

fn source(path: &str, text: &str) -> Source {
    (PathBuf::from(path), text.to_owned())
}

/// `line: what` of each mistake in one topic file `topics/t.toml`.
fn topic_mistakes(text: &str) -> Vec<String> {
    match check(&[source("topics/t.toml", text)], &[]) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.iter().map(|m| format!("{}: {}", m.line, m.what)).collect(),
    }
}

fn topic(text: &str) -> Arc<Topic> {
    let catalog = check(&[source("topics/t.toml", text)], &[]);
    Arc::clone(&catalog.unwrap_or_else(|m| panic!("{m:?}")).topics["t"])
}

/// As above, of one model `sql/models/m.sql` on the topic `events`.
fn model_mistakes(text: &str) -> Vec<String> {
    match check(&[source("topics/events.toml", EVENTS)], &[source("sql/models/m.sql", text)]) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.iter().map(|m| format!("{}: {}", m.line, m.what)).collect(),
    }
}

fn model(text: &str) -> Arc<Model> {
    let catalog =
        check(&[source("topics/events.toml", EVENTS)], &[source("sql/models/m.sql", text)]);
    let catalog = catalog.unwrap_or_else(|mistakes| {
        panic!("{text}\n{}", mistakes.iter().map(|m| format!("{m}\n")).collect::<String>())
    });
    Arc::clone(&catalog.models["m"])
}

/// A model of one SELECT, on its second line.
fn view(select: &str) -> String {
    format!("CREATE MATERIALIZED VIEW m AS\n{select}")
}

/// Each case has exactly one mistake: this one, on this line, with its remedy.
fn assert_each<'c>(
    cases: impl IntoIterator<Item = (String, usize, &'c str)>,
    mistakes_of: fn(&str) -> Vec<String>,
) {
    let mut wrong = String::new();
    for (text, line, what) in cases {
        let told = mistakes_of(&text);
        let as_told = match told.as_slice() {
            [one] => {
                one.starts_with(&format!("{line}: "))
                    && one.contains(what)
                    && (one.contains("Allowed") || one.contains("not TOML"))
            }
            _ => false,
        };
        if !as_told {
            wrong += &format!("---\n{text}\nwanted {line}: {what}\ntold {told:#?}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_repositorys_own_topics_and_models_have_no_mistake() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let catalog = match load(&root.join("topics"), &root.join("sql/models")) {
        Ok(catalog) => catalog,
        Err(mistakes) => {
            panic!("{}", mistakes.iter().map(|m| format!("{m}\n")).collect::<String>())
        }
    };
    let names: Vec<&str> = catalog.models.keys().map(AsRef::as_ref).collect();
    assert_eq!(
        names,
        [
            "covid_counties_daily",
            "covid_counties_to_date",
            "dim_devices",
            "dim_users",
            "edw_sample_current",
            "edw_sample_history",
            "fact_events",
            "fact_transactions",
            "fact_user_days",
            "fact_users",
            "latest_tap_by_device",
            "orders_by_tenant",
            "orders_current",
            "orders_history",
            "oyster_hourly_by_kind",
            "oyster_product_daily",
            "oyster_stop_15m",
            "taps_by_mode",
            "taps_by_stop_5m",
        ]
    );
    let text = describe(&catalog);
    for line in [
        "topic taps: json, 7 columns",
        "  private      token_id hash",
        "  lake         date=date(event_time)/hour=hour(event_time) in Europe/London; a file ends at 128 MiB or 60 s",
        "  fare_cents      numeric      adds",
        "  fare_cents_avg         numeric      = \"fare_cents\" / nullif(\"_fare_cents_avg_count\", 0)",
        "  stop_id      text         latest by event time",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
}

#[test]
fn all_mistakes_of_all_files_are_told_at_once_in_order() {
    let topics = [
        source(
            "topics/b.toml",
            "topic = \"b\"\nformat = \"jsn\"\n[columns]\nx = \"txt\"\ny = \"int\"\n",
        ),
        source("topics/a.toml", "topic = \"a\"\nformat = \"json\"\n[columns]\nX = \"text\"\n"),
    ];
    let models = [
        source("sql/models/m.sql", "CREATE MATERIALIZED VIEW m AS SELECT z, y + 1 FROM b"),
        source("sql/models/a.sql", "CREATE MATERIALIZED VIEW a AS SELECT y FROM c"),
    ];
    let mistakes = check(&topics, &models).unwrap_err();
    let told: Vec<String> =
        mistakes.iter().map(|m| m.to_string().chars().take(44).collect()).collect();
    assert_eq!(
        told,
        [
            "sql/models/a.sql:1: `a` is a topic's name al",
            "sql/models/a.sql:1: unknown topic `c`, did y",
            "sql/models/m.sql:1: the expression `y + 1` h",
            "sql/models/m.sql:1: unknown column of topic ",
            "topics/a.toml:4: the column `X` is not snake",
            "topics/b.toml:2: unknown format `jsn`, did y",
            "topics/b.toml:4: column `x`: unknown type `t",
        ]
    );
}

#[test]
fn a_column_with_a_mistake_is_not_told_again_by_its_models() {
    let topics =
        [source("topics/t.toml", "topic = \"t\"\nformat = \"json\"\n[columns]\nx = \"txt\"\n")];
    for select in [
        "SELECT x FROM t",
        "SELECT x, count(*) AS n FROM t GROUP BY x",
        "SELECT count(*) AS n, max(x) AS m, avg(x) AS a, _partition AS p FROM t GROUP BY _partition",
    ] {
        let models = [source("sql/models/m.sql", &view(select))];
        let mistakes = check(&topics, &models).unwrap_err();
        assert_eq!(mistakes.len(), 1, "{select} {mistakes:#?}");
        assert_eq!(mistakes[0].line, 4);
    }
    let broken = [source("topics/t.toml", "topic = \"t\nformat = \"json\"\n")];
    let models = [source("sql/models/m.sql", &view("SELECT x FROM t"))];
    let mistakes = check(&broken, &models).unwrap_err();
    assert!(mistakes.iter().all(|m| m.file == Path::new("topics/t.toml")), "{mistakes:#?}");
}

#[test]
fn two_files_for_one_kafka_topic_are_a_mistake() {
    let text = "format = \"json\"\ntopic = \"same\"\n[columns]\nx = \"text\"\n";
    let mistakes = check(&[source("topics/a.toml", text), source("topics/b.toml", text)], &[]);
    let mistakes = mistakes.unwrap_err();
    assert_eq!(mistakes.len(), 1);
    assert!(mistakes[0].to_string().starts_with(
        "topics/b.toml:2: the Kafka topic `same` is declared by topics/a.toml already"
    ));
}

#[test]
fn no_topic_and_no_directory_are_mistakes() {
    assert!(check(&[], &[]).unwrap_err()[0].what.contains("no topic at all"));
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let mistakes = load(&missing, &missing).unwrap_err();
    assert_eq!(mistakes.len(), 2, "{mistakes:#?}");
    assert!(mistakes.iter().all(|m| m.what.contains("cannot read the directory")), "{mistakes:#?}");

    std::fs::write(dir.path().join("README.md"), "not a topic").unwrap();
    let mistakes = load(dir.path(), dir.path()).unwrap_err();
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    assert!(mistakes[0].what.contains("no topic file in this directory"));

    std::fs::write(dir.path().join("events.toml"), EVENTS).unwrap();
    assert_eq!(load(dir.path(), dir.path()).map(|c| c.topics.len()).unwrap(), 1);
    std::fs::write(dir.path().join("bad.sql"), [0xff, 0xfe]).unwrap();
    let mistakes = load(dir.path(), dir.path()).unwrap_err();
    assert!(mistakes[0].what.contains("cannot read the file"), "{mistakes:#?}");
}

#[test]
fn a_file_that_was_cut_off_or_lost_a_word_is_told_and_never_a_panic() {
    let sql = "CREATE MATERIALIZED VIEW m WITH (allowed_lateness = '1 h') AS SELECT tumble(interval '5 minutes') AS w, \
               e.name, round(avg(n) FILTER (WHERE flag AND n > 1), 2) AS x, CASE WHEN count(*) > 1 THEN 'a' ELSE 'b' END AS y \
               FROM events AS e WHERE day > '2024-01-01'::date AND name IN ('a', 'b') GROUP BY 1, name";
    assert_eq!(model_mistakes(sql), Vec::<String>::new());
    for text in [sql, EVENTS] {
        let ends = text.char_indices().map(|(end, _)| text[..end].to_owned());
        let words: Vec<&str> = text.split_inclusive(' ').collect();
        let gaps = (0..words.len()).map(|gap| {
            let kept = words.iter().enumerate().filter(|(i, _)| *i != gap);
            kept.map(|(_, word)| *word).collect::<String>()
        });
        for damaged in ends.chain(gaps) {
            let told = match text == sql {
                true => model_mistakes(&damaged),
                false => topic_mistakes(&damaged),
            };
            for mistake in told {
                assert!(
                    mistake.contains("Allowed") || mistake.contains("not TOML"),
                    "{mistake}\n{damaged}"
                );
            }
        }
    }
}
