//! Rows of CSV: which field is whose, what is NULL, what is no row.

use super::messages::{declared, decode, lines, messages, reasons};

const COLUMNS: &str = "id = \"integer\"\nname = { type = \"text\", optional = true }
fare = { type = \"numeric(8,2)\", optional = true }
at = { type = \"timestamptz\", encoding = \"timestamp-utc\", optional = true }
extra = { type = \"jsonb\", optional = true }";

#[test]
fn without_a_header_the_columns_are_the_fields_in_order() {
    let decoded = decode(
        &declared("csv", "", COLUMNS),
        &messages(&[
            "id,name,fare,at,extra\n",
            "1,\"Zoë, \"\"Z\"\"\",12.50,2021-12-01 11:20:30.4444444,\"{\"\"a\"\": [1]}\"\r\n",
            "2,,,,",
            "3,\"\",1e2,2024-03-01T08:00:00+01:00,",
        ]),
    );
    assert_eq!(reasons(&decoded), [""; 0]);
    assert_eq!(decoded.empty, [0], "the header says nothing of a row");
    assert_eq!(
        lines(&decoded, &["_offset", "id", "name", "fare", "at", "extra"]),
        [
            "1 1 Zoë, \"Z\" 1250 1638357630444444 {\"a\": [1]}",
            "2 2 - - - -",
            "3 3  10000 1709276400000000 -"
        ]
    );
}

#[test]
fn with_a_header_fields_go_by_name_and_those_that_no_column_names_are_counted() {
    let tables = "[csv]\nheader = [\"ID\", \"card\", \"unknown\", \"name\"]\ndelimiter = \";\"\nnull = \"\\\\N\"";
    let columns =
        "name = { type = \"text\", optional = true }\nid = { type = \"integer\", from = \"/ID\" }
card = { type = \"text\", pii = \"drop\" }";
    let topic = declared("csv", tables, columns);
    let decoded = decode(&topic, &messages(&["7;4711;x,y;\\N", "8;;;\"\\N\"", "9;1;2"]));
    assert_eq!(lines(&decoded, &["id", "name"]), ["7 -", "8 \\N"]);
    assert_eq!(decoded.unknown_fields, 2);
    assert_eq!(reasons(&decoded), ["a row of 3 fields; 4 are declared"]);
}

#[test]
fn what_is_no_row_or_not_of_its_types_is_a_reject() {
    let topic = declared("csv", "", "id = \"integer\"\nname = \"text\"");
    let decoded =
        decode(&topic, &messages(&["1", "1,\"a", "x,a", ",a", "1,a\n2,b", "\u{0}1,a", "1,a"]));
    assert_eq!(
        reasons(&decoded),
        [
            "a row of 1 fields; 2 are declared",
            "byte 2: the quotes that open here never close",
            "found \"x\": an integer is wanted",
            "the field is null and the column is not optional",
            "byte 3: another row; a record is one row of CSV",
            "found \"\\u00001\": an integer is wanted",
        ]
    );
    assert_eq!(decoded.rows.num_rows(), 1);
}
