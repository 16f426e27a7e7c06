//! Definitions that say the same of more columns, and those that say something else.

use super::*;

fn widens(new: &str, old: &str) -> bool {
    let old = model(old).definition();
    model(new).definition().widens(&old.frame, &old.pieces)
}

#[test]
fn what_says_the_same_of_more_columns_is_told_from_what_says_something_else() {
    let base = "SELECT name, tumble(interval '5 minutes') AS w, count(*) AS n, sum(big) AS total FROM events
                WHERE flag GROUP BY w, name";
    let base = view(base);
    for more in [
        base.replace("count(*)", "max(amount) AS most, count(*)"),
        base.replace(" FROM", ", count(DISTINCT card) AS cards FROM"),
        base.replace(" FROM", ", avg(big) AS mean, stddev(ratio) AS spread FROM"),
        base.replace(" FROM", ", first_value(n) FILTER (WHERE n > 1) AS one FROM"),
        // Only in another order.
        base.replace("count(*) AS n, sum(big) AS total", "sum(big) AS total, count(*) AS n"),
    ] {
        assert!(widens(&more, &base), "{more}");
        let only_order = more.len() == base.len();
        assert_eq!(widens(&base, &more), only_order, "{more}");
    }
    for other in [
        base.replace("sum(big)", "sum(n)"),
        base.replace("AS total", "AS sum_of_it"),
        base.replace("WHERE flag", "WHERE NOT flag"),
        base.replace("WHERE flag", ""),
        base.replace("5 minutes", "6 minutes"),
        base.replace("name,", "name, day,").replace("w, name", "w, name, day"),
        base.replace(" FROM", ", delta(big) AS grown FROM"),
        base.replace("VIEW m AS", "VIEW m WITH (late = 'drop') AS"),
    ] {
        let more = other.replace("count(*)", "max(amount) AS most, count(*)");
        assert!(other != base && !widens(&other, &base) && !widens(&more, &base), "{other}");
    }
    // What was hidden is shown: another column of the table is gone.
    let mean = base.replace(" FROM", ", avg(amount) AS mean FROM");
    assert!(!widens(&mean.replace(" FROM", ", sum(amount) AS amounts FROM"), &mean));
}

#[test]
fn rows_with_columns_more_are_the_same_rows_where_their_key_is() {
    let base =
        "CREATE MATERIALIZED VIEW m WITH (primary_key = 'name') AS\nSELECT name, n FROM events";
    assert!(widens(&base.replace("n FROM", "n, amount FROM"), base));
    assert!(!widens(&base.replace("name, n", "big, name, n"), base), "its place in SELECT");
    assert!(!widens(&base.replace("'name'", "'n'"), base));
    let all = "CREATE MATERIALIZED VIEW m AS\nSELECT name, n FROM events";
    assert!(!widens(base, all) && !widens(all, base));
    assert!(widens(&all.replace("n FROM", "n, upper(name) AS loud FROM"), all));
}
