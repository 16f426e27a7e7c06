//! Models over changes: what they keep, and why others are refused.

use super::*;

const ORDERS: &str = r#"topic = "orders"
format = "debezium-json"

[changes]
key = ["tenant", "id"]

[columns]
tenant = "text"
id     = "bigint"
state  = { type = "text", optional = true }
price  = { type = "numeric(12,2)", optional = true }
weight = { type = "double precision", optional = true }
at     = { type = "timestamptz", optional = true }
"#;

fn over(topic: &str, text: &str) -> Result<Catalog, Vec<Mistake>> {
    check(&[source("topics/orders.toml", topic)], &[source("sql/models/m.sql", text)])
}

fn kept(text: &str) -> Arc<Model> {
    let catalog = over(ORDERS, text);
    let catalog = catalog.unwrap_or_else(|mistakes| panic!("{text}\n{mistakes:?}"));
    Arc::clone(&catalog.models["m"])
}

fn mistakes(text: &str) -> Vec<String> {
    match over(ORDERS, text) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.iter().map(|m| format!("{}: {}", m.line, m.what)).collect(),
    }
}

fn names(model: &Model) -> Vec<&str> {
    model.columns.iter().map(|column| column.name.as_str()).collect()
}

#[test]
fn a_table_of_rows_keeps_the_key_and_what_the_model_reads() {
    let m =
        kept(&view("SELECT id AS order_id, tenant, upper(state) AS s FROM orders WHERE price > 1"));
    let folding = m.folding.as_ref().unwrap();
    let columns: Vec<&str> = folding.columns.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((columns, folding.keys), (vec!["tenant", "id", "state", "price"], 2));
    assert_eq!(folding.keeps, Keeps::Rows);
    let place = ["_event_time", "_source_position", "_partition", "_offset"];
    assert_eq!(names(&m), [&["order_id", "tenant", "s"], &place[..]].concat());
    let ModelKind::Rows(rows) = &m.kind else { panic!("{m:?}") };
    assert_eq!(rows.primary_key, [1, 0], "in order of the source's key");
    let text = m.describe();
    assert!(
        text.contains("the source's rows as they are now; a row is known by tenant, id"),
        "{text}"
    );
}

#[test]
fn deleted_rows_and_versions_are_kept_where_the_model_says_so() {
    let with = |option: &str| {
        kept(&format!(
            "CREATE MATERIALIZED VIEW m WITH ({option}) AS\nSELECT tenant, id FROM orders"
        ))
    };
    let soft = with("deletes = 'soft'");
    assert_eq!(soft.folding.as_ref().unwrap().keeps, Keeps::Deleted);
    assert_eq!(names(&soft)[2], "_deleted_at");
    let history = with("history = 'validity'");
    assert_eq!(history.folding.as_ref().unwrap().keeps, Keeps::Versions);
    assert_eq!(names(&history)[2..4], ["valid_from", "valid_to"]);
    let plain = kept(&view("SELECT tenant, id FROM orders"));
    assert_ne!(plain.fingerprint(), soft.fingerprint());
    assert_ne!(soft.fingerprint(), history.fingerprint());
}

#[test]
fn an_aggregate_counts_its_rows_and_the_terms_of_its_sums() {
    let m = kept(&view(
        "SELECT state, count(*) AS n, sum(price) AS total, avg(price) AS mean FROM orders GROUP BY state",
    ));
    let Keeps::Groups { sums } = &m.folding.as_ref().unwrap().keeps else { panic!("{m:?}") };
    assert_eq!(*sums, [("total".to_owned(), "_total_terms".to_owned())]);
    assert!(names(&m).contains(&"_rows") && names(&m).contains(&"_total_terms"), "{m:?}");
    let text = m.describe();
    assert!(text.contains("takes back what goes"), "{text}");
}

#[test]
fn the_fingerprint_knows_how_the_source_tells_its_changes() {
    let text = view("SELECT tenant, id FROM orders");
    let of = |topic: &str| over(topic, &text).unwrap().models["m"].fingerprint();
    let sparse = ORDERS.replace("key = [", "images = \"sparse\"\nkey = [");
    let offsets = ORDERS.replace("key = [", "order = \"offset\"\nkey = [");
    assert!(of(ORDERS) != of(&sparse) && of(ORDERS) != of(&offsets) && of(&sparse) != of(&offsets));
}

#[test]
fn what_cannot_follow_its_source_is_refused_with_the_reason() {
    let options = |options: &str| {
        format!("CREATE MATERIALIZED VIEW m WITH ({options}) AS\nSELECT tenant, id FROM orders")
    };
    let cases = [
        (view("SELECT id FROM orders"), 2, "`tenant` of the source's key is not in SELECT"),
        (view("SELECT tenant, id, _op AS op FROM orders"), 2, "`_op` is of a change"),
        (
            view("SELECT tenant, id FROM orders\nLEFT JOIN x ON id = x.id"),
            3,
            "Allowed: a file topics/x.toml",
        ),
        (
            view("SELECT state,\n tumble(interval '1 hour') AS w, count(*) AS n FROM orders GROUP BY w, state"),
            3,
            "a window over changes",
        ),
        (view("SELECT count(*) AS n FROM orders"), 2, "an aggregate without GROUP BY"),
        (
            view("SELECT state,\n max(price) AS p FROM orders GROUP BY state"),
            3,
            "max(…) over changes: when its row changes or goes",
        ),
        (
            view("SELECT state,\n count(DISTINCT id) AS p FROM orders GROUP BY state"),
            3,
            "may still be that of others",
        ),
        (
            view("SELECT state, sum(weight) AS w FROM orders GROUP BY state"),
            2,
            "`w` adds doubles",
        ),
        (options("deletes = 'hard'"), 1, "unknown kind of deletes `hard`"),
        (options("history = 'all'"), 1, "unknown kind of history `all`"),
        (options("deletes = 'soft', history = 'validity'"), 1, "Allowed: one of both"),
        (options("primary_key = 'id'"), 1, "unknown option `primary_key`"),
        (
            "CREATE MATERIALIZED VIEW m WITH (history = 'validity') AS\nSELECT tenant, id, at AS valid_to FROM orders"
                .to_owned(),
            2,
            "makes the columns valid_from and valid_to itself",
        ),
    ];
    assert_each(cases, mistakes);
    let keyless = ORDERS.replace("[\"tenant\", \"id\"]", "[]");
    let told = over(&keyless, &view("SELECT id FROM orders")).unwrap_err();
    assert!(told[0].what.contains("have no key"), "{told:?}");
}

#[test]
fn a_table_whose_rows_are_only_added_is_a_stream_of_events() {
    let only = |more: &str| {
        let at = ORDERS.replace(
            "at     = { type = \"timestamptz\", optional = true }",
            "at = \"timestamptz\"",
        );
        let more = format!("\nappend_only = true{more}\n\n[columns]");
        at.replace("\n\n[columns]", &more)
            .replace("\n\n[changes]", "\nevent_time = \"at\"\n\n[changes]")
    };
    let windowed = view(
        "SELECT state, tumble(interval '1 hour') AS w, max(price) AS p, count(DISTINCT id) AS n FROM orders GROUP BY w, state",
    );
    let catalog = over(&only(""), &windowed).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    assert!(catalog.models["m"].folding.is_none());
    let topic = &catalog.topics["orders"];
    assert_eq!(topic.event_time_name(), "at");
    assert!(topic.describe().contains("rows are only added"), "{}", topic.describe());
    assert!(!topic.schema.field_with_name("tenant").unwrap().is_nullable());
    let unique =
        only("").replace("\nevent_time", "\nunique = [\"id\"]\nwithin = \"1h\"\nevent_time");
    assert!(over(&unique, &windowed).unwrap().topics["orders"].unique.is_some());
    for at in ["", "event_time = \"_source_time\""] {
        let topic = only("").replace("event_time = \"at\"", at);
        let catalog = over(&topic, &windowed).unwrap();
        assert_eq!(catalog.topics["orders"].event_time_name(), "_source_time");
    }
    // It is another topic than before, so lake and tables are made anew.
    let fingerprint = |topic: &str| {
        over(topic, &view("SELECT tenant, id FROM orders")).unwrap().topics["orders"]
            .lake_fingerprint()
    };
    assert_ne!(
        fingerprint(&ORDERS.replace("\n\n[columns]", "\nappend_only = true\n\n[columns]")),
        fingerprint(ORDERS)
    );
    for key in [
        "before = \"full\"",
        "images = \"sparse\"",
        "snapshots = \"replace\"",
        "max_cut_deletes = \"5%\"",
    ] {
        let told = over(&only(&format!("\n{key}")), &windowed).unwrap_err();
        assert!(told[0].what.contains("append_only says that none does"), "{key}: {told:?}");
        assert_eq!(told[0].line, 8, "{key}");
    }
}

#[test]
fn the_tables_beside_a_model_have_names_of_their_own() {
    let long = "m".repeat(60);
    let view = |name: &str| {
        let text = format!("CREATE MATERIALIZED VIEW {name} AS\nSELECT tenant, id FROM orders");
        source(&format!("sql/models/{name}.sql"), &text)
    };
    let topics = [source("topics/orders.toml", ORDERS)];
    let told = check(&topics, &[view(&long)]).unwrap_err();
    assert!(told[0].what.contains("Allowed: 63; a shorter name"), "{told:?}");
    let told = check(&topics, &[view("m"), view("m__source")]).unwrap_err();
    assert!(told[0].what.contains("which is that of sql/models/m__source.sql"), "{told:?}");
}
