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
            "SELECT name, count(DISTINCT n) AS c FROM events GROUP BY name",
            2,
            "count(DISTINCT …) is not supported yet",
        ),
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
        ("SELECT name, stddev(n) AS c FROM events GROUP BY name", 2, "stddev is not supported yet"),
        (
            "SELECT name, bool_or(flag) AS c FROM events GROUP BY name",
            2,
            "count(*) FILTER (WHERE …) = 0",
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
