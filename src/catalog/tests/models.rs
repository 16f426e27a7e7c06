//! Models: how a statement becomes keys, parts and generated columns.

use super::*;
use arrow::datatypes::{DataType, Schema};
use datafusion_common::DFSchema;
use datafusion_expr::Expr;
use std::time::Duration;

fn aggregate(m: &Model) -> &Aggregate {
    match &m.kind {
        ModelKind::Aggregate(aggregate) => aggregate,
        ModelKind::Rows(_) => panic!("rows"),
    }
}

/// `name type role` of each column of the table.
fn columns(m: &Model) -> Vec<String> {
    let role = |role: &Role| match role {
        Role::Derived(sql) => format!("= {sql}"),
        other => format!("{other:?}"),
    };
    m.columns.iter().map(|c| format!("{} {} {}", c.name, c.pg, role(&c.role))).collect()
}

/// The generated column of one expression per group, without the hidden parts.
fn generated(expr: &str) -> String {
    let m = model(&view(&format!(
        "SELECT name, count(*) AS n, sum(n) AS s, sum(big) AS b, sum(ratio) AS d, min(name) AS lo, {expr} AS x FROM events GROUP BY name"
    )));
    columns(&m).into_iter().find(|c| c.starts_with("x ")).unwrap()
}

/// The Arrow type that an expression gives when it runs.
fn arrow_of(expr: &Expr) -> DataType {
    let events = check(&[source("topics/events.toml", EVENTS)], &[]).unwrap();
    let schema: &Schema = &events.topics["events"].schema;
    let df = DFSchema::try_from(schema.clone()).unwrap();
    let physical = Planner::default().bind(expr.clone(), &df).unwrap();
    physical.data_type(schema).unwrap()
}

#[test]
fn a_windowed_aggregate_is_taken_apart() {
    let m = model(
        "CREATE MATERIALIZED VIEW m WITH (allowed_lateness = '30 minutes', late = 'drop') AS
         SELECT name AS who, tumble(interval '5 minutes') AS w, count(*) AS n, sum(big) AS total,
                min(amount) FILTER (WHERE flag) AS lo, avg(big) AS mean
         FROM events e WHERE e.n > 0 GROUP BY w, e.name",
    );
    assert_eq!(
        columns(&m),
        [
            "who text Key",
            "w_start timestamptz WindowStart",
            "w_end timestamptz WindowEnd",
            "n bigint Part(Add)",
            "total numeric Part(Add)",
            "lo numeric(18,2) Part(Least)",
            "mean numeric = \"total\" / nullif(\"_mean_count\", 0)",
            "_mean_count bigint Part(Add)",
        ]
    );
    let a = aggregate(&m);
    let window = a.window.as_ref().unwrap();
    let five = Shape::Tumble(Grid::Fixed(Duration::from_secs(300)));
    assert_eq!((window.name.as_str(), &window.shape), ("w", &five));
    assert_eq!(window.closes_after(), Duration::from_secs(1800));
    assert_eq!((window.allowed_lateness, window.late), (Duration::from_secs(1800), Late::Drop));
    assert_eq!(a.keys.len(), 1, "the window is no key of its own");
    assert_eq!(a.parts.len(), 4);
    assert!(a.parts[2].filter.is_some());
    assert_eq!(m.filter.as_ref().unwrap().to_string(), "n > Int32(0)", "no qualifier is left");
}

#[test]
fn a_window_is_read_with_its_zone() {
    use chrono_tz::Tz;
    let hours = |n: u64| Duration::from_secs(n * 3600);
    for (call, shape, told) in [
        (
            "tumble(interval '5' minute)",
            Shape::Tumble(Grid::Fixed(hours(1) / 12)),
            "window of 5 min",
        ),
        (
            "tumble(interval '1 day', 'Europe/London')",
            Shape::Tumble(Grid::Days(1, Tz::Europe__London)),
            "window of 1 d in Europe/London",
        ),
        (
            "tumble(interval '1 week', 'UTC')",
            Shape::Tumble(Grid::Days(7, Tz::UTC)),
            "window of 7 d in UTC",
        ),
        (
            "TUMBLE(INTERVAL '6 hours', 'Asia/Kathmandu')",
            Shape::Tumble(Grid::Clock(hours(6), Tz::Asia__Kathmandu)),
            "window of 6 h in Asia/Kathmandu",
        ),
        (
            "tumble(interval '1 month')",
            Shape::Tumble(Grid::Months(1, Tz::UTC)),
            "window of 1 month in UTC",
        ),
        (
            "tumble(interval '1 year', 'America/New_York')",
            Shape::Tumble(Grid::Months(12, Tz::America__New_York)),
            "window of 12 months in America/New_York",
        ),
        (
            "hop(interval '5 minutes', interval '1 hour')",
            Shape::Hop(Hop { pane: Grid::Fixed(hours(1) / 12), slide: 1, size: 12 }),
            "window of 1 h, one every 5 min",
        ),
        (
            "hop(interval '10 minutes', interval '25 minutes')",
            Shape::Hop(Hop { pane: Grid::Fixed(hours(1) / 12), slide: 2, size: 5 }),
            "window of 25 min, one every 10 min",
        ),
        (
            "hop(interval '1 day', interval '1 week', 'Europe/London')",
            Shape::Hop(Hop { pane: Grid::Days(1, Tz::Europe__London), slide: 1, size: 7 }),
            "window of 7 d, one every 1 d in Europe/London",
        ),
        (
            "hop(interval '1 month', interval '1 year')",
            Shape::Hop(Hop { pane: Grid::Months(1, Tz::UTC), slide: 1, size: 12 }),
            "window of 12 months, one every 1 month in UTC",
        ),
        (
            "session(interval '90 minutes')",
            Shape::Session { gap: hours(3) / 2 },
            "session with gaps of up to 1 h 30 min",
        ),
    ] {
        let m = model(&view(&format!("SELECT {call} AS w, count(*) AS n FROM events GROUP BY w")));
        assert_eq!(aggregate(&m).window.as_ref().unwrap().shape, shape, "{call}");
        assert!(m.describe().contains(&format!("one row per {told} and key")), "{}", m.describe());
    }
}

#[test]
fn a_session_is_final_a_gap_and_the_allowance_after_its_end() {
    let m = model(
        "CREATE MATERIALIZED VIEW m WITH (allowed_lateness = '30 minutes') AS
         SELECT session(interval '2 hours') AS s, name, count(*) AS n FROM events GROUP BY s, name",
    );
    let window = aggregate(&m).window.as_ref().unwrap();
    assert_eq!(window.closes_after(), Duration::from_secs(9_000));
    assert!(m.is_of_sessions());
    for told in ["a record 2 h 30 min behind the watermark", "the last event and the gap"] {
        assert!(m.describe().contains(told), "{}", m.describe());
    }
}

#[test]
fn equal_parts_are_kept_once() {
    let m = model(&view(
        "SELECT avg(n) AS mean, sum(n) AS s, count(n) AS c, sum( events.n ) AS again, sum(n) FILTER (WHERE flag) AS f, name FROM events GROUP BY name",
    ));
    assert_eq!(
        columns(&m),
        [
            "mean numeric = \"s\" / nullif(\"c\", 0)",
            "s numeric Part(Add)",
            "c bigint Part(Add)",
            "again numeric = \"s\"",
            "f numeric Part(Add)",
            "name text Key",
        ]
    );
    assert_eq!(aggregate(&m).parts.len(), 3);
}

#[test]
fn a_part_has_the_type_that_cannot_overflow() {
    for (call, pg, arrow) in [
        ("count(*)", "bigint", DataType::Int64),
        ("count(doc)", "bigint", DataType::Int64),
        ("sum(small)", "numeric", DataType::Int64),
        ("sum(n)", "numeric", DataType::Int64),
        ("sum(big)", "numeric", DataType::Decimal128(38, 0)),
        ("sum(amount)", "numeric(38,2)", DataType::Decimal128(38, 2)),
        ("sum(single)", "double precision", DataType::Float64),
        ("sum(ratio)", "double precision", DataType::Float64),
        ("min(small)", "smallint", DataType::Int16),
        ("max(name)", "text", DataType::Utf8),
        ("max(id)", "uuid", DataType::Utf8),
        ("max(day)", "date", DataType::Date32),
        ("min(at)", "timestamptz", PgType::Timestamptz.arrow()),
        ("max(wide)", "numeric(30,2)", DataType::Decimal128(30, 2)),
        ("max(single)", "real", DataType::Float32),
        ("max(card)", "text", DataType::Utf8),
        ("count(DISTINCT id)", "bigint", DataType::Int64),
        ("bool_and(flag)", "boolean", DataType::Boolean),
        ("every(flag)", "boolean", DataType::Boolean),
        ("bool_or(n > 0)", "boolean", DataType::Boolean),
        ("first_value(doc)", "jsonb", DataType::Utf8),
        ("last_value(small)", "smallint", DataType::Int16),
        ("arg_max(amount, at)", "numeric(18,2)", DataType::Decimal128(18, 2)),
        ("arg_min(flag, ratio)", "boolean", DataType::Boolean),
    ] {
        let m = model(&view(&format!("SELECT name, {call} AS x FROM events GROUP BY 1")));
        let part = &aggregate(&m).parts[0];
        let kept = &part.columns[0];
        assert_eq!((kept.pg.to_string().as_str(), &kept.arrow), (pg, &arrow), "{call}");
        if let Some(arg) = part.args.first().filter(|_| !call.starts_with("count")) {
            assert_eq!(arrow_of(arg), arrow, "{call}");
        }
    }
}

#[test]
fn what_an_aggregate_keeps_besides_its_column_is_hidden_and_shared() {
    let m = model(&view(
        "SELECT name, tumble(interval '1 hour') AS w, arg_max(n, at) AS top, count(DISTINCT id) AS ids, stddev(n) AS s,
                var_pop(n) AS v, variance(ratio) AS r, delta(big) AS grown, approx_percentile(n, 0.5) AS half,
                approx_percentile(n, 0.9) - approx_percentile(n, 0.5) AS tail FROM events GROUP BY name, w",
    ));
    let columns: Vec<String> =
        m.columns.iter().map(|c| format!("{} {}", c.name, c.pg)).skip(3).collect();
    assert_eq!(
        columns,
        [
            "top integer",
            "ids bigint",
            "s numeric",
            "v numeric",
            "r double precision",
            "grown numeric",
            "half double precision",
            "tail double precision",
            "_top_by timestamptz",
            "_top_time timestamptz",
            "_top_partition integer",
            "_top_offset bigint",
            "_grown_last bigint",
            "_grown_last_time timestamptz",
            "_grown_last_partition integer",
            "_grown_last_offset bigint",
            "_half_sketch bytea",
            "_s_squares numeric",
            "_s_sum numeric",
            "_s_count bigint",
            "_r_moments_count bigint",
            "_r_moments_mean double precision",
            "_r_moments_m2 double precision",
            "_tail_approx_percentile double precision",
        ]
    );
    let text = m.describe();
    for words in [
        "adds the values that m__ids did not hold yet",
        "of the row with the greatest _top_by, then the earliest event time",
        "_grown_last minus that of the window before",
        "about, from _half_sketch: within 1% of the value at 0.9",
        "(\"_s_count\"::numeric * \"_s_squares\" - \"_s_sum\" * \"_s_sum\")",
    ] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
}

#[test]
fn keys_are_found_by_alias_place_and_expression() {
    for group_by in ["day_of", "1", "date_trunc('day', at)", "DATE_TRUNC('day', events.at)"] {
        let m = model(&view(&format!(
            "SELECT date_trunc('day', at) AS day_of, count(*) AS n FROM events GROUP BY {group_by}"
        )));
        let key = &aggregate(&m).keys[0];
        assert_eq!((key.name.as_str(), key.pg), ("day_of", PgType::Timestamptz), "{group_by}");
    }
    let m =
        model(&view("SELECT tumble(interval '1 hour'), count(*) AS n FROM events GROUP BY window"));
    assert_eq!(columns(&m)[0], "window_start timestamptz WindowStart");
    let m = model(&view("SELECT 'all' AS scope, count(*) AS n FROM events GROUP BY scope"));
    assert_eq!(columns(&m)[0], "scope text Key");
}

#[test]
fn expressions_give_exactly_the_declared_arrow_type() {
    let m = model(&view(
        "SELECT id, doc, name || '!' AS t, n + 1 AS i, amount * 2 AS a, at::date AS d, extract(hour FROM at) AS h,
                date_trunc('hour', at) AS hour, at + interval '1 day' AS later, n / 2.0 AS half, upper(name) AS u,
                CASE WHEN flag THEN 1 END AS c, to_timestamp(n) AS ts, name::bytea AS bytes, big::text AS b, length(name) AS len,
                _offset AS kafka_offset, coalesce(big, 0) AS z, n > 1 AS yes, sha256(name) AS digest
         FROM events",
    ));
    let ModelKind::Rows(rows) = &m.kind else { panic!("rows") };
    for (expr, column) in rows.exprs.iter().zip(&m.columns) {
        assert_eq!(arrow_of(expr), column.pg.arrow(), "{} {}", column.name, column.pg);
    }
    let pg: Vec<String> = m.columns.iter().map(|c| format!("{} {}", c.name, c.pg)).collect();
    for wanted in [
        "id uuid",
        "doc jsonb",
        "t text",
        "i bigint",
        "d date",
        "h integer",
        "hour timestamptz",
        "later timestamptz",
        "ts timestamptz",
        "b text",
        "kafka_offset bigint",
        "yes boolean",
        "digest bytea",
        "_event_time timestamptz",
        "_partition integer",
        "_offset bigint",
    ] {
        assert!(pg.iter().any(|c| c == wanted), "{wanted}\n{pg:#?}");
    }
}

#[test]
fn a_model_of_rows_has_its_key_and_its_place_in_kafka() {
    let m = model(
        "CREATE MATERIALIZED VIEW m WITH (primary_key = 'id, day') AS SELECT name, id, day FROM events",
    );
    assert_eq!(
        columns(&m),
        [
            "name text Value",
            "id uuid Key",
            "day date Key",
            "_event_time timestamptz Position",
            "_partition integer Position",
            "_offset bigint Position",
        ]
    );
    let ModelKind::Rows(rows) = &m.kind else { panic!("rows") };
    assert_eq!(rows.primary_key, [1, 2]);
    let m = model(&view("SELECT name FROM events"));
    assert!(m.describe().contains("known by _partition and _offset"));
}

#[test]
fn expressions_over_aggregates_are_postgresqls_and_cannot_fail() {
    let mut wrong = String::new();
    for (expr, column) in [
        // Whole numbers divide as PostgreSQL's do; sum(bigint) is numeric there.
        ("sum(n) / count(*)", r#"x numeric = (div("s", nullif("n", 0)))::numeric"#),
        ("sum(big) / count(*)", r#"x numeric = ("b" / nullif("n", 0))::numeric"#),
        ("sum(big) / nullif(count(*), 0)", r#"x numeric = ("b" / nullif("n", 0))::numeric"#),
        ("count(*) / 2", r#"x numeric = (div("n", 2))::numeric"#),
        ("count(*) * 100", r#"x numeric = (("n")::numeric * 100)::numeric"#),
        ("(count(*) * 100)::bigint", r#"x bigint = (("n")::numeric * 100)::bigint"#),
        ("100.0 * count(*)", r#"x numeric = (100.0 * "n")::numeric"#),
        (
            "sum(ratio) / count(*)",
            r#"x double precision = ("d" / nullif("n", 0))::double precision"#,
        ),
        ("count(*) % 7", r#"x numeric = (("n")::numeric % 7)::numeric"#),
        ("round(sum(big) / 100, 2)", r#"x numeric = (round(("b" / 100), 2))::numeric"#),
        ("round(sum(ratio), 1)", r#"x numeric = (round(("d")::numeric, 1))::numeric"#),
        ("floor(sum(ratio))", r#"x double precision = (floor("d"))::double precision"#),
        ("coalesce(sum(big), 0)", r#"x numeric = (coalesce("b", 0))::numeric"#),
        ("greatest(count(*), 1)", r#"x bigint = (greatest("n", 1))::bigint"#),
        ("-sum(n)", r#"x numeric = (- "s")::numeric"#),
        (
            "count(*) > 10 AND NOT sum(n) IS NULL",
            r#"x boolean = (("n" > 10) AND (NOT ("s" IS NULL)))::boolean"#,
        ),
        (
            "CASE WHEN count(*) BETWEEN 1 AND 9 THEN 'few' ELSE 'many' END",
            r#"x text = (CASE WHEN ("n" BETWEEN 1 AND 9) THEN 'few' ELSE 'many' END)::text"#,
        ),
        ("min(name) = 'it''s'", r#"x boolean = (("lo" COLLATE "C") = 'it''s')::boolean"#),
        ("name IN ('a', 'b')", r#"x boolean = (("name" COLLATE "C") IN ('a', 'b'))::boolean"#),
        ("count(*)::text", r#"x text = ("n")::text"#),
        ("max(single)", "x real Part(Greatest)"),
        (
            "max(single) + 1",
            r#"x double precision = (("_x_max")::double precision + 1)::double precision"#,
        ),
        (
            "1 / avg(ratio)",
            r#"x double precision = (1 / nullif("d" / nullif("_x_count", 0), 0))::double precision"#,
        ),
    ] {
        let made = generated(expr);
        if made != column {
            wrong += &format!("{expr}\n  {made}\n  {column}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn hidden_parts_never_share_a_name() {
    let m = model(&view(
        "SELECT name, max(n) - max(big) - max(small) AS x, avg(amount) AS y FROM events GROUP BY name",
    ));
    let hidden: Vec<&str> = m.columns[3..].iter().map(|c| c.name.as_str()).collect();
    assert_eq!(hidden, ["_x_max", "_x_max_2", "_x_max_3", "_y_sum", "_y_count"]);
}

#[test]
fn the_fingerprint_changes_with_the_rows_alone() {
    let base = "CREATE MATERIALIZED VIEW m WITH (allowed_lateness = '1 m') AS SELECT tumble(interval '1 hour') AS w, count(*) AS n FROM events WHERE n > 1 GROUP BY w";
    let first = model(base).fingerprint();
    for same in [
        base.replace("SELECT", "-- a comment\nselect")
            .replace("FROM events WHERE n", "FROM events e\n WHERE e.N"),
        base.replace("'1 m'", "'9 m'"),
    ] {
        assert_eq!(model(&same).fingerprint(), first, "{same}");
    }
    for other in [
        base.replace("n > 1", "n > 2"),
        base.replace("1 hour", "2 hours"),
        base.replace("'1 hour'", "'1 hour', 'UTC'"),
        base.replace("'1 hour'", "'1 hour', 'Europe/London'"),
        base.replace("count(*) AS n", "count(*) AS c"),
        base.replace("'1 m'", "'1 m', late = 'drop'"),
    ] {
        assert_ne!(model(&other).fingerprint(), first, "{other}");
    }
    let of = |topic: &str| {
        let models = [source("sql/models/m.sql", base)];
        check(&[source("topics/events.toml", topic)], &models).unwrap().models["m"].fingerprint()
    };
    assert_ne!(of(&EVENTS.replace("n      = \"integer\"", "n = \"bigint\"")), first);
    assert_eq!(of(&EVENTS.replace("small  = \"smallint\"", "")), first, "it does not read it");
}

#[test]
fn the_view_of_final_windows_needs_its_name() {
    let topic = (
        PathBuf::from("topics/events.toml"),
        "topic = \"e\"\nformat = \"json\"\n[columns]\nk = \"text\"".to_owned(),
    );
    let model = |name: &str| {
        let sql = format!(
            "CREATE MATERIALIZED VIEW {name} WITH (late = 'dead-letter') AS \
             SELECT tumble(interval '1 minute') AS window, count(*) AS n FROM events GROUP BY window"
        );
        (PathBuf::from(format!("sql/models/{name}.sql")), sql)
    };
    let catalog = check(std::slice::from_ref(&topic), &[model("a")]).unwrap();
    let window = catalog.models["a"].window().unwrap();
    assert_eq!((window.late, window.closes_after()), (Late::DeadLetter, Duration::ZERO));
    let long = "m".repeat(60);
    for (models, text) in [
        (vec![model("a"), model("a_final")], "is a model of that name"),
        (vec![model(&long)], "66 bytes"),
    ] {
        let mistakes = check(std::slice::from_ref(&topic), &models).unwrap_err();
        assert!(mistakes.iter().any(|m| m.to_string().contains(text)), "{mistakes:?}");
    }
}
