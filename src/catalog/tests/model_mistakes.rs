//! Models: each mistake with its line.

use super::*;

#[test]
fn every_mistake_in_a_model_has_its_line_and_says_what_is_allowed() {
    // Each is a SELECT on line 2 and the lines after it.
    let cases = [
        ("SELECT name FROM evnts", 2, "unknown topic `evnts`, did you mean `events`?"),
        ("SELECT name FROM x.events", 2, "has a schema"),
        (
            "SELECT nam FROM events",
            2,
            "unknown column of topic `events` `nam`, did you mean `name`?",
        ),
        ("SELECT name,\n  secret FROM events", 3, "pii = \"drop\""),
        ("SELECT name,\n  x.n FROM events", 3, "unknown table `x`"),
        ("SELECT *\nFROM events", 2, "SELECT *"),
        ("SELECT events.*\nFROM events", 2, "SELECT *"),
        ("SELECT name,\n n + 1 FROM events", 3, "the expression `n + 1` has no name"),
        (
            "SELECT name,\n n AS name FROM events",
            3,
            "the name `name` is in SELECT twice (first on line 2)",
        ),
        ("SELECT _offset FROM events", 2, "Allowed: _offset AS another_name"),
        ("SELECT n AS _n FROM events", 2, "reserved"),
        ("SELECT n AS \"N\" FROM events", 2, "not snake_case"),
        ("SELECT n AS ctid FROM events", 2, "PostgreSQL's own"),
        ("SELECT name\nFROM events\nJOIN taps ON true", 4, "an inner JOIN would lose"),
        ("SELECT name\nFROM events\nFULL JOIN taps ON true", 4, "such a join is not supported"),
        ("SELECT name\nFROM events\nLEFT JOIN taps USING (n)", 4, "a JOIN without ON"),
        ("SELECT name\nFROM events\nLEFT JOIN t ON events.n > t.n", 4, "ON n > t.n"),
        ("SELECT name\nFROM events\nLEFT JOIN t ON n = 5", 4, "ON n = 5"),
        ("SELECT name\nFROM events\nLEFT JOIN t ON n = t.n", 4, "topics/t.toml"),
        ("SELECT name\nFROM events,\n taps", 4, "a second table after FROM"),
        ("SELECT name\nFROM (SELECT 1)", 3, "a subquery after FROM"),
        ("SELECT name FROM events\nUNION SELECT name FROM events", 3, "UNION is not supported"),
        ("WITH a AS (SELECT 1) SELECT name FROM events", 2, "CTEs"),
        ("SELECT DISTINCT name FROM events", 2, "SELECT DISTINCT"),
        ("SELECT name FROM events\nORDER BY name", 3, "ORDER BY"),
        ("SELECT name FROM events\nLIMIT 3", 3, "LIMIT"),
        ("SELECT name, count(*) AS c FROM events GROUP BY name\nHAVING count(*) > 1", 3, "HAVING"),
        ("SELECT name, row_number() OVER () AS r FROM events", 2, "is a window function"),
        (
            "SELECT name, count(*) OVER () AS r FROM events GROUP BY name",
            2,
            "OVER is a window function",
        ),
        ("SELECT (SELECT 1) AS one FROM events", 2, "a subquery is not supported"),
        ("SELECT name FROM events WHERE n IN\n(SELECT 1)", 2, "a subquery is not supported"),
        ("SELECT name FROM events\nWHERE n + 1", 3, "Allowed: a boolean"),
        ("SELECT name FROM events\nWHERE count(*) > 1", 3, "an aggregate inside WHERE"),
        ("SELECT now() AS x FROM events", 2, "another result on every replay"),
        ("SELECT random() AS x FROM events", 2, "another result on every replay"),
        ("SELECT uuid() AS x FROM events", 2, "another result on every replay"),
        ("SELECT current_date AS x FROM events", 2, "another result on every replay"),
        ("SELECT uper(name) AS x FROM events", 2, "uper"),
        ("SELECT name,\n abs(name) AS x FROM events", 3, "abs"),
        ("SELECT name,\n 'x'::bigint AS x FROM events", 3, "'x'"),
        ("SELECT at > '2024-13-01'::timestamptz AS x FROM events", 2, "2024-13-01"),
        ("SELECT date_trunc('fortnight', at) AS x FROM events", 2, "fortnight"),
        ("SELECT regexp_replace(name, '(', '') AS x FROM events", 2, "regex"),
        ("SELECT NULL AS x FROM events", 2, "no column of PostgreSQL's holds"),
        ("SELECT interval '1 day' AS x FROM events", 2, "no column of PostgreSQL's holds"),
        ("SELECT count(*) AS n FROM events", 2, "an aggregate without GROUP BY"),
        ("SELECT tumble(interval '1 hour') AS w FROM events", 2, "a window without GROUP BY"),
        ("SELECT name FROM events\nGROUP BY name", 2, "GROUP BY without an aggregate"),
        (
            "SELECT count(*) AS c FROM events\nGROUP BY name",
            3,
            "GROUP BY has `name`, SELECT does not",
        ),
        (
            "SELECT name,\n n, count(*) AS c FROM events GROUP BY name",
            3,
            "neither grouped nor aggregated",
        ),
        ("SELECT name, count(*) AS c FROM events\nGROUP BY name, 3", 3, "SELECT has 2 columns"),
        ("SELECT name, count(*) AS c FROM events\nGROUP BY name, 2", 3, "is an aggregate"),
        ("SELECT name, count(*) AS c FROM events\nGROUP BY name, nam", 3, "did you mean `name`?"),
        ("SELECT name, count(*) AS c FROM events\nGROUP BY ALL", 2, "GROUP BY ALL"),
        (
            "SELECT ratio, count(*) AS c FROM events GROUP BY ratio",
            2,
            "a key of double precision is not exact",
        ),
        ("SELECT doc, count(*) AS c FROM events GROUP BY doc", 2, "a key of jsonb"),
        (
            "SELECT name, count(DISTINCT ratio) AS c FROM events GROUP BY name",
            2,
            "count(DISTINCT …): a value of double precision is not exact",
        ),
        ("SELECT name, count(DISTINCT doc) AS c FROM events GROUP BY name", 2, "a value of jsonb"),
        (
            "SELECT name, count(DISTINCT n, big) AS c FROM events GROUP BY name",
            2,
            "count(DISTINCT …) takes one argument",
        ),
        (
            "SELECT name, count(DISTINCT *) AS c FROM events GROUP BY name",
            2,
            "count(DISTINCT …) takes one argument",
        ),
        (
            "SELECT name, max(DISTINCT n) AS c FROM events GROUP BY name",
            2,
            "max(DISTINCT x) is max(x)",
        ),
        (
            "SELECT name, last_value(DISTINCT n) AS c FROM events GROUP BY name",
            2,
            "Allowed: last_value(x), count(DISTINCT x)",
        ),
        ("SELECT name, last_value(n ORDER BY at) AS c FROM events GROUP BY name", 2, "ORDER BY"),
        ("SELECT name, last(n) AS c FROM events GROUP BY name", 2, "last_value(x)"),
        ("SELECT name, max_by(n, at) AS c FROM events GROUP BY name", 2, "arg_max(x, y)"),
        (
            "SELECT name, arg_max(n) AS c FROM events GROUP BY name",
            2,
            "arg_max takes two arguments",
        ),
        (
            "SELECT name, arg_max(n, doc) AS c FROM events GROUP BY name",
            2,
            "arg_max(x, y) by jsonb",
        ),
        ("SELECT name, bool_and(n) AS c FROM events GROUP BY name", 2, "a bool_and of integer"),
        ("SELECT name, stddev(name) AS c FROM events GROUP BY name", 2, "a stddev_samp of text"),
        (
            "SELECT name, variance(wide) AS c FROM events GROUP BY name",
            2,
            "a sum of squares of numeric(30,2) may not fit",
        ),
        ("SELECT name, var(n) AS c FROM events GROUP BY name", 2, "var is not PostgreSQL's"),
        ("SELECT name, corr(n, big) AS c FROM events GROUP BY name", 2, "corr is not supported"),
        ("SELECT name, sum(DISTINCT n) AS c FROM events GROUP BY name", 2, "cannot be merged"),
        (
            "SELECT name, string_agg(name, ',') AS c FROM events GROUP BY name",
            2,
            "string_agg cannot be merged",
        ),
        (
            "SELECT name, array_agg(n) AS c FROM events GROUP BY name",
            2,
            "array_agg cannot be merged",
        ),
        ("SELECT name, median(n) AS c FROM events GROUP BY name", 2, "median cannot be merged"),
        ("SELECT name, delta(n) AS c FROM events GROUP BY name", 2, "delta(x) without a window"),
        (
            "SELECT tumble(interval '1 h') AS w, delta(ratio) AS c FROM events GROUP BY w",
            2,
            "a delta of double precision is not exact. Allowed: delta(x::numeric(18,6))",
        ),
        (
            "SELECT tumble(interval '1 h') AS w, delta(name) + 1 AS c FROM events GROUP BY w",
            2,
            "a delta of text",
        ),
        (
            "SELECT name, approx_percentile(n) AS c FROM events GROUP BY name",
            2,
            "Allowed: approx_percentile(x, 0.95)",
        ),
        (
            "SELECT name, approx_percentile(n, 95) AS c FROM events GROUP BY name",
            2,
            "not a number from 0 to 1",
        ),
        (
            "SELECT name, 2 * approx_percentile(n, big) AS c FROM events GROUP BY name",
            2,
            "not a number from 0 to 1",
        ),
        (
            "SELECT name, approx_percentile(name, 0.5) AS c FROM events GROUP BY name",
            2,
            "approx_percentile(…) of text. Allowed: numbers",
        ),
        (
            "SELECT name, approx_distinct(ratio) AS c FROM events GROUP BY name",
            2,
            "approx_distinct(…): a value of double precision",
        ),
        ("SELECT name, mode(n) AS c FROM events GROUP BY name", 2, "mode cannot be merged"),
        (
            "SELECT name, percentile_cont(n) AS c FROM events GROUP BY name",
            2,
            "percentile_cont cannot be merged: it needs every value of the group at once, while only a small state per group is kept. Allowed: approx_percentile(x, 0.5)",
        ),
        (
            "SELECT name, sum(max(n)) AS c FROM events GROUP BY name",
            2,
            "an aggregate inside sum(…)",
        ),
        ("SELECT name, sum(name) AS c FROM events GROUP BY name", 2, "a sum of text"),
        ("SELECT name, avg(name) AS c FROM events GROUP BY name", 2, "Allowed: numbers"),
        ("SELECT name, sum(wide) AS c FROM events GROUP BY name", 2, "may not fit 38 digits"),
        (
            "SELECT name, max(flag) AS c FROM events GROUP BY name",
            2,
            "PostgreSQL has no max of boolean",
        ),
        ("SELECT name, min(doc) AS c FROM events GROUP BY name", 2, "a min of jsonb"),
        ("SELECT name, sum(n, n) AS c FROM events GROUP BY name", 2, "sum takes one argument"),
        (
            "SELECT name, count(*) FILTER (WHERE n) AS c FROM events GROUP BY name",
            2,
            "is integer. Allowed: a boolean",
        ),
        ("SELECT name, sum(n ORDER BY n) AS c FROM events GROUP BY name", 2, "ORDER BY"),
        (
            "SELECT name, max(nn) AS c FROM events GROUP BY name",
            2,
            "unknown column of topic `events` `nn`",
        ),
        ("SELECT name, max(secret) AS c FROM events GROUP BY name", 2, "pii = \"drop\""),
        (
            "SELECT name, sqrt(count(*)) AS c FROM events GROUP BY name",
            2,
            "sqrt() cannot stand around aggregates",
        ),
        (
            "SELECT name, count(*) || 'x' AS c FROM events GROUP BY name",
            2,
            "|| cannot stand around aggregates",
        ),
        (
            "SELECT name, min(name)::integer AS c FROM events GROUP BY name",
            2,
            "a cast from text to integer",
        ),
        (
            "SELECT name, coalesce(min(name), 0) AS c FROM events GROUP BY name",
            2,
            "mixes text and integer",
        ),
        ("SELECT name, min(name) + 1 AS c FROM events GROUP BY name", 2, "counts with text"),
        (
            "SELECT tumble('5 minutes') AS w, count(*) AS c FROM events GROUP BY w",
            2,
            "tumble takes one interval",
        ),
        (
            "SELECT tumble(interval '1 month 2 days') AS w, count(*) AS c FROM events GROUP BY w",
            2,
            "no fixed length",
        ),
        (
            "SELECT tumble(interval '0 months') AS w, count(*) AS c FROM events GROUP BY w",
            2,
            "1 to 1200 months",
        ),
        (
            "SELECT\n tumble(interval '1 day', 'Europe/Londn') AS w, count(*) AS c FROM events GROUP BY w",
            3,
            "unknown time zone `Europe/Londn`",
        ),
        (
            "SELECT tumble(interval '5 hours', 'UTC') AS w, count(*) AS c FROM events GROUP BY w",
            2,
            "Allowed in a time zone: what divides a day",
        ),
        (
            "SELECT tumble(interval '36 hours', 'UTC') AS w, count(*) AS c FROM events GROUP BY w",
            2,
            "windows of 1 d 12 h in UTC",
        ),
        (
            "SELECT tumble('UTC', interval '1 day') AS w, count(*) AS c FROM events GROUP BY w",
            2,
            "one interval and perhaps a time zone",
        ),
        (
            "SELECT tumble(interval '0 s') AS w, count(*) AS c FROM events GROUP BY w",
            2,
            "one millisecond or more",
        ),
        (
            "SELECT tumble(interval '1 h') AS w, name, count(*) AS c FROM events GROUP BY name",
            2,
            "the window is not in GROUP BY",
        ),
        (
            "SELECT hop(interval '1 h') AS w, count(*) AS c FROM events GROUP BY w",
            2,
            "hop takes two intervals",
        ),
        (
            "SELECT\n hop(interval '2 h', interval '1 h') AS w, count(*) AS c FROM events GROUP BY w",
            3,
            "events in between would be in none",
        ),
        (
            "SELECT hop(interval '1 s', interval '1 h') AS w, count(*) AS c FROM events GROUP BY w",
            2,
            "put together from 3600 panes. Allowed: 1000",
        ),
        (
            "SELECT hop(interval '7 s', interval '1 h 1 s') AS w, count(*) AS c FROM events GROUP BY w",
            2,
            "put together from 3601 panes",
        ),
        (
            "SELECT hop(interval '4 h', interval '6 h', 'UTC') AS w, count(*) AS c FROM events GROUP BY w",
            2,
            "the slide of hop does not divide its size",
        ),
        (
            "SELECT hop(interval '1 day', interval '1 month') AS w, count(*) AS c FROM events GROUP BY w",
            2,
            "mixes months with days",
        ),
        (
            "SELECT\n session(interval '1 h', 'UTC') AS w, count(*) AS c FROM events GROUP BY w",
            3,
            "session takes one interval",
        ),
        (
            "SELECT session(interval '1 month') AS w, count(*) AS c FROM events GROUP BY w",
            2,
            "a gap of months",
        ),
        (
            "SELECT session(interval '0 s') AS w, count(*) AS c FROM events GROUP BY w",
            2,
            "one millisecond or more",
        ),
        (
            "SELECT session(interval '1 h') AS w,\n hop(interval '1 h', interval '2 h') AS v, count(*) AS c FROM events GROUP BY w, v",
            3,
            "a second window",
        ),
        (
            "SELECT hop_start(interval '1 day') AS w, count(*) AS c FROM events GROUP BY w",
            2,
            "hop_start is not supported",
        ),
        (
            "SELECT tumble(interval '1 h') AS w,\n tumble(interval '2 h') AS v, count(*) AS c FROM events GROUP BY w, v",
            3,
            "a second window",
        ),
        (
            "SELECT tumble(interval '1 h') AS w, count(*) AS w_end FROM events GROUP BY w",
            2,
            "two columns `w_end`",
        ),
        (
            "SELECT tumble(interval '1 h') AS w, max(at) - w AS c, count(*) AS d FROM events GROUP BY w",
            2,
            "the window `w` inside an expression",
        ),
        ("SELECT name FORM events", 2, "not SQL: "),
        ("SELECT name\nFROM events WHERE (", 3, "not SQL: "),
        ("SELECT name FROM events;\nSELECT 1", 3, "a second statement"),
    ];
    assert_each(
        cases.into_iter().map(|(select, line, what)| (view(select), line, what)),
        model_mistakes,
    );
}

#[test]
fn every_mistake_around_the_select_has_its_line() {
    let rows = "SELECT name, n, ratio FROM events";
    let kept = "SELECT name, count(*) AS c FROM events GROUP BY name";
    let windowed = "SELECT tumble(interval '1 h') AS w, count(*) AS c FROM events GROUP BY w";
    let cases = [
        (String::new(), 1, "no statement in the file"),
        ("-- nothing\n".into(), 1, "no statement in the file"),
        ("\nSELECT 1".into(), 2, "not a materialized view"),
        (format!("CREATE VIEW m AS {rows}"), 1, "a plain view keeps nothing"),
        (
            format!("CREATE OR REPLACE MATERIALIZED VIEW m AS {rows}"),
            1,
            "the file is the definition",
        ),
        (format!("CREATE MATERIALIZED VIEW m (a, b, c) AS {rows}"), 1, "aliases in SELECT"),
        (
            format!("CREATE MATERIALIZED VIEW other AS {rows}"),
            1,
            "the file is called `m`, its view `other`",
        ),
        (format!("CREATE MATERIALIZED VIEW public.m AS {rows}"), 1, "has a schema"),
        (
            format!("CREATE MATERIALIZED VIEW m WITH (primary_key = 'nam') AS {rows}"),
            1,
            "did you mean `name`?",
        ),
        (
            format!("CREATE MATERIALIZED VIEW m WITH (primary_key = 'name, name') AS {rows}"),
            1,
            "names `name` twice",
        ),
        (
            format!("CREATE MATERIALIZED VIEW m WITH (primary_key = 'ratio') AS {rows}"),
            1,
            "is not exact",
        ),
        (
            format!("CREATE MATERIALIZED VIEW m WITH (\n primary_keys = 'name') AS {rows}"),
            2,
            "unknown option `primary_keys`, did you mean `primary_key`?",
        ),
        (
            format!("CREATE MATERIALIZED VIEW m WITH (\n late = 'drop') AS {kept}"),
            2,
            "Allowed: no option",
        ),
        (
            format!("CREATE MATERIALIZED VIEW m WITH (\n late = 'never') AS {windowed}"),
            2,
            "late = 'never'",
        ),
        (
            format!("CREATE MATERIALIZED VIEW m WITH (\n late = drop_it) AS {windowed}"),
            2,
            "in quotes",
        ),
        (
            format!(
                "CREATE MATERIALIZED VIEW m WITH (late = 'drop',\n late = 'amend') AS {windowed}"
            ),
            2,
            "twice",
        ),
        (
            format!("CREATE MATERIALIZED VIEW m WITH (allowed_lateness = '1 month') AS {windowed}"),
            1,
            "no fixed length",
        ),
        (
            format!("CREATE MATERIALIZED VIEW m WITH (lateness = '1 h') AS {windowed}"),
            1,
            "Allowed: allowed_lateness, late",
        ),
    ];
    assert_each(cases, model_mistakes);
}

#[test]
fn what_makes_no_surrogate_key_is_refused_with_what_to_write_instead() {
    let of = |arguments: &str| {
        view(&format!("SELECT name,\nsurrogate_key({arguments}) AS x FROM events"))
    };
    assert_each(
        [
            (of("name, ratio"), 3, "a cast to numeric(p,s) or text does"),
            (of("single"), 3, "a real or double precision has no one way to be written"),
            (of("doc"), 3, "a jsonb is kept as its producer wrote it"),
            (of("name, 1 + n, doc"), 3, "a jsonb is kept"),
            (of("interval '1 day'"), 3, "makes no key"),
            (of(""), 3, "surrogate_key"),
        ],
        model_mistakes,
    );
    let good = of(
        "name, n, small, big, amount, wide, flag, id, day, at, card, _offset, doc::text, ratio::text",
    );
    assert_eq!(model_mistakes(&good), [""; 0]);
}

#[test]
fn the_mistakes_of_one_statement_are_told_together() {
    let told = model_mistakes(
        "CREATE MATERIALIZED VIEW m WITH (late = 'x') AS
         SELECT tumble(interval '5 hours', 'UTC') AS w,
                nam,
                median(n) AS med,
                sum(name) AS s
         FROM events
         WHERE nope > 1
         GROUP BY w, nam",
    );
    let lines: Vec<&str> = told.iter().map(|m| &m[..2]).collect();
    assert_eq!(lines, ["2:", "3:", "4:", "5:", "7:"], "{told:#?}");
}

#[test]
fn what_cannot_be_kept_in_a_window_is_refused_with_what_to_write_instead() {
    let of = |window: &str, aggregate: &str| {
        view(&format!(
            "SELECT {window} AS w, count(*) AS c,\n{aggregate} AS x\nFROM events GROUP BY w"
        ))
    };
    let hop = "hop(interval '1 h', interval '2 h')";
    let session = "session(interval '1 h')";
    assert_each(
        [
            (of(hop, "delta(n)"), 3, "overlap"),
            (of(hop, "1 + delta(n)"), 3, "first_value(x) and last_value(x) with hop"),
            (of(session, "delta(n)"), 3, "last_value(x) - first_value(x) with session"),
            (of(session, "count(DISTINCT name)"), 3, "would have to become one set"),
            (
                of(session, "100 / count(DISTINCT name)"),
                3,
                "Allowed: tumble, hop; or a model of rows",
            ),
            (of(session, "approx_distinct(name)"), 3, "cannot unite sketches"),
            (of(session, "2 * approx_percentile(n, 0.5)"), 3, "stddev, min, max with session"),
        ],
        model_mistakes,
    );
    for aggregate in [
        "first_value(name)",
        "last_value(n) - first_value(n)",
        "arg_max(name, n)",
        "bool_or(n > 1)",
        "stddev(n)",
        "var_pop(ratio)",
    ] {
        for window in [hop, session] {
            assert_eq!(model_mistakes(&of(window, aggregate)), [""; 0]);
        }
    }
    for aggregate in ["count(DISTINCT name)", "approx_distinct(name)", "approx_percentile(n, 0.5)"]
    {
        assert_eq!(model_mistakes(&of(hop, aggregate)), [""; 0]);
    }
}

const PLACES: &str = "reference = \"lake:places.csv\"\nprimary_key = [\"code\"]\n\
                      [columns]\ncode = \"text\"\nlevel = \"integer\"\n";

/// As `model_mistakes`, with the reference `places` beside the topic.
fn mistakes_with_places(text: &str) -> Vec<String> {
    let topics = [source("topics/events.toml", EVENTS), source("topics/places.toml", PLACES)];
    match check(&topics, &[source("sql/models/m.sql", text)]) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.iter().map(|m| format!("{}: {}", m.line, m.what)).collect(),
    }
}

#[test]
fn mistakes_in_a_join_have_their_lines() {
    let select =
        |what: &str, on: &str| view(&format!("SELECT {what}\nFROM events\nLEFT JOIN {on}"));
    assert_eq!(
        mistakes_with_places(&select("name, p.level", "places p ON p.code = name")),
        [""; 0]
    );
    assert_each(
        [
            (select("name", "plaices ON plaices.code = name"), 4, "did you mean `places`?"),
            (select("name", "places ON places.level = n"), 4, "leaves out `code`"),
            (select("name", "places ON places.code = n"), 4, "Allowed: the same type"),
            (select("name", "places ON places.code = nme"), 4, "did you mean `name`?"),
            (
                select("name", "places ON places.code = name AND places.level = n"),
                4,
                "more than the primary key",
            ),
            (
                select("name, places.lvel", "places ON places.code = name"),
                2,
                "did you mean `level`?",
            ),
            (select("name, level", "places ON places.code = name"), 2, "column of topic `events`"),
            (select("n, x.name", "places p ON p.code = name"), 2, "Allowed: events and p"),
        ],
        mistakes_with_places,
    );
}

#[test]
fn mistakes_in_a_reference_have_their_lines() {
    fn mistakes(text: &str) -> Vec<String> {
        let topics = [source("topics/events.toml", EVENTS), source("topics/places.toml", text)];
        match check(&topics, &[]) {
            Ok(_) => Vec::new(),
            Err(mistakes) => mistakes.iter().map(|m| format!("{}: {}", m.line, m.what)).collect(),
        }
    }
    assert_eq!(mistakes(PLACES), [""; 0]);
    assert_each(
        [
            (PLACES.replace("lake:places.csv", "s3://x"), 1, "no place of a reference"),
            (PLACES.replace("lake:places.csv", "lake:../places.csv"), 1, "no place of a reference"),
            (PLACES.replace("primary_key = [\"code\"]\n", ""), 1, "`primary_key` is missing"),
            (PLACES.replace("[\"code\"]", "[\"cod\"]"), 2, "did you mean `code`?"),
            (PLACES.replace("[\"code\"]", "[\"code\", \"code\"]"), 2, "twice"),
            (
                PLACES.replace("\"text\"", "{ type = \"text\", optional = true }"),
                2,
                "which is optional",
            ),
            (PLACES.replace("\"text\"", "\"jsonb\""), 2, "not told apart"),
            (
                PLACES.replace("\"text\"", "{ type = \"text\", pii = \"hash\" }"),
                1,
                "personal data in a reference",
            ),
            (PLACES.replace("[columns]", "refresh = \"1ms\"\n[columns]"), 3, "1s or more"),
            (PLACES.replace("[columns]", "format = \"csv\"\n[columns]"), 3, "unknown key `format`"),
        ],
        mistakes,
    );
}

#[test]
fn tables_of_distinct_values_have_names_of_their_own() {
    let told = |models: &[(&str, &str)]| -> Vec<String> {
        let models: Vec<_> = models
            .iter()
            .map(|(name, select)| {
                let text = format!("CREATE MATERIALIZED VIEW {name} AS {select}");
                source(&format!("sql/models/{name}.sql"), &text)
            })
            .collect();
        match check(&[source("topics/events.toml", EVENTS)], &models) {
            Ok(_) => Vec::new(),
            Err(mistakes) => mistakes.iter().map(ToString::to_string).collect(),
        }
    };
    let counts = |alias: &str| {
        format!("SELECT name, count(DISTINCT n) AS {alias} FROM events GROUP BY name")
    };
    assert_eq!(told(&[("a", &counts("c")), ("b", &counts("c"))]), Vec::<String>::new());
    for (models, words) in [
        (
            vec![("a", counts("c")), ("a__c", "SELECT n FROM events".into())],
            "that of sql/models/a__c.sql",
        ),
        (
            vec![("a", counts("b__c")), ("a__b", counts("c"))],
            "which is that of sql/models/a__b.sql",
        ),
        (vec![("a", counts(&"c".repeat(61)))], "whose name has 64 bytes"),
    ] {
        let models: Vec<_> = models.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let told = told(&models);
        assert!(told.first().is_some_and(|first| first.contains(words)), "{told:?}");
    }
}
