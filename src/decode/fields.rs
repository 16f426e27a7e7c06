//! Which part of a record belongs to which column: one pass over the text, declared keys as a tree.
//!
//! Owns: the tree of keys ([`Fields`]), the matrix of slices that it fills ([`Cell`]), the count
//! of unknown fields. Does not own: the grammar (`scan`), the meaning of a slice (`convert`).
//!
//! F-1  Of a repeated key the last one counts, with all that is below it.
//! F-2  A column's own name beats its camelCase, in whatever order they come.

use super::scan::{Broken, Scanner, begins, unescape};
use crate::catalog::{Pii, TopicColumn};

/// Bytes of the longest record: the slices keep two flags in the length's upper bits. Kafka's own
/// `message.max.bytes` ends at 10^9. A longer one is `Malformed`.
pub const RECORD_BYTES_MAX: usize = (1 << 30) - 1;

/// Keys of an object whose places are remembered for the next record; those beyond are looked up.
const ORDER_MAX: usize = 256;

/// A slice of a record's text: the raw JSON of one column. Eight bytes, so that the matrix of a
/// batch stays in the cache, and free of a lifetime, so that it is kept from batch to batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cell {
    start: u32,
    /// Zero: absent. Above it, `ESCAPED` and `EXACT`.
    len: u32,
}

impl Cell {
    const ESCAPED: u32 = 1 << 31;
    const EXACT: u32 = 1 << 30;
    pub const ABSENT: Self = Self { start: 0, len: 0 };

    /// What stands at the end of a text, from `start`.
    pub fn last(text: &str, start: usize) -> Self {
        let escaped = if text[start..].contains('\\') { Self::ESCAPED } else { 0 };
        Self { start: start as u32, len: (text.len() - start) as u32 | escaped }
    }
    /// The same value, where another text has it.
    pub fn moved(self, start: usize) -> Self {
        Self { start: start as u32, ..self }
    }
    /// The raw JSON text; empty when absent. `text` is the record's.
    #[inline(always)]
    pub fn raw(self, text: &str) -> &str {
        let start = self.start as usize;
        &text[start..start + self.bytes()]
    }
    #[inline(always)]
    pub fn bytes(self) -> usize {
        (self.len & (Self::EXACT - 1)) as usize
    }
    /// Whether a string in it has a backslash.
    #[inline(always)]
    pub fn escaped(self) -> bool {
        self.len & Self::ESCAPED != 0
    }
}

/// The cells of a batch, column by column: a column's cells lie side by side.
#[derive(Default)]
pub struct Matrix {
    cells: Vec<Cell>,
    rows: usize,
}

impl Matrix {
    /// All absent.
    pub fn clear(&mut self, rows: usize, columns: usize) {
        self.rows = rows;
        self.cells.clear();
        self.cells.resize(rows * columns, Cell::ABSENT);
    }
    pub fn column(&self, column: usize) -> &[Cell] {
        &self.cells[column * self.rows..][..self.rows]
    }
    /// Of one row, as far as `which` says of each column.
    pub fn forget(&mut self, row: usize, which: impl Fn(usize) -> bool) {
        for (column, cell) in self.cells.iter_mut().skip(row).step_by(self.rows).enumerate() {
            if which(column) {
                *cell = Cell::ABSENT;
            }
        }
    }
    #[inline(always)]
    fn cell(&mut self, row: usize, column: usize) -> &mut Cell {
        &mut self.cells[column * self.rows + row]
    }
}

/// Where the fields of one record go.
pub struct Row<'r> {
    pub fields: &'r mut Fields,
    pub cells: &'r mut Matrix,
    pub row: usize,
}

impl Row<'_> {
    /// Finds them in the object on which the scanner stands, whatever was found before.
    pub fn find(&mut self, scan: &mut Scanner<'_>) -> Result<u64, Broken> {
        self.cells.forget(self.row, |_| true);
        self.fields.find_here(scan, self.row, self.cells)
    }

    pub fn clear(self) {
        self.cells.forget(self.row, |_| true);
    }
}

/// The declared keys. Node 0 is the record itself.
pub struct Fields {
    nodes: Vec<Node>,
    /// Columns whose pointer is empty: the whole record.
    whole: Vec<usize>,
    key: String,
    /// By place in the record, a key of the first level that no column names, as it came there last.
    strange: Vec<String>,
    /// Such keys, since they were taken; as they are written.
    new_names: Vec<String>,
}

#[derive(Default)]
struct Node {
    keys: Vec<Key>,
    /// Places in `keys`, by the key's length (the last one holds all longer).
    by_length: [Vec<usize>; 32],
    /// Which key stood at each place in the record before: mostly it stands there again, and
    /// then one comparison replaces the search.
    order: Vec<Option<usize>>,
}

struct Key {
    name: String,
    /// With its quotes, as producers write it; None where it cannot be written without escapes.
    quoted: Option<String>,
    columns: Vec<Target>,
    /// Where columns lie deeper.
    child: Option<usize>,
    /// Those columns, all levels down.
    below: Vec<usize>,
}

#[derive(Clone, Copy)]
struct Target {
    column: usize,
    /// Not the camelCase of a column's name.
    exact: bool,
}

impl Fields {
    /// `columns` are all declared ones. A cell's column counts those that are not dropped; the
    /// dropped are known, but nothing of them is kept.
    pub fn new(columns: &[TopicColumn]) -> Self {
        let mut fields = Self {
            nodes: vec![Node::default()],
            whole: vec![],
            key: String::new(),
            strange: vec![],
            new_names: vec![],
        };
        let mut kept = 0;
        for column in columns {
            let dropped = column.pii == Some(Pii::Drop);
            let target = |exact| (!dropped).then_some(Target { column: kept, exact });
            if column.path_is_default {
                fields.declare(std::slice::from_ref(&column.name), target(true));
                for alias in [&[camel_case(&column.name)][..], &column.path] {
                    if alias != std::slice::from_ref(&column.name) {
                        fields.declare(alias, target(false));
                    }
                }
            } else {
                fields.declare(&column.path, target(true));
            }
            kept += usize::from(!dropped);
        }
        fields
    }

    fn declare(&mut self, path: &[String], target: Option<Target>) {
        let Some((last, outer)) = path.split_last() else {
            self.whole.extend(target.map(|target| target.column));
            return;
        };
        let mut node = 0;
        for name in outer {
            let key = self.key(node, name);
            self.nodes[node].keys[key].below.extend(target.map(|target| target.column));
            let fresh = self.nodes.len();
            let child = *self.nodes[node].keys[key].child.get_or_insert(fresh);
            if child == fresh {
                self.nodes.push(Node::default());
            }
            node = child;
        }
        let key = self.key(node, last);
        let columns = &mut self.nodes[node].keys[key].columns;
        // The camelCase and the given path are often one.
        let again = |target: &Target| columns.iter().any(|other| other.column == target.column);
        if let Some(target) = target.filter(|target| !again(target)) {
            columns.push(target);
        }
    }

    /// The key's place in the node, where it is put if it is not there.
    fn key(&mut self, node: usize, name: &str) -> usize {
        let node = &mut self.nodes[node];
        if let Some(place) = node.find(name) {
            return place;
        }
        let plain = name.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
        node.by_length[length_class(name)].push(node.keys.len());
        node.keys.push(Key {
            name: name.to_owned(),
            quoted: plain.then(|| format!("\"{name}\"")),
            columns: vec![],
            child: None,
            below: vec![],
        });
        node.keys.len() - 1
    }

    /// Fills the row's cells from a record, all absent before. Gives the number of unknown fields.
    /// After an error the row is to be cleared.
    pub fn find(&mut self, text: &str, row: usize, into: &mut Matrix) -> Result<u64, Broken> {
        assert!(text.len() <= RECORD_BYTES_MAX, "the caller refuses longer records");
        let mut scan = Scanner::new(text);
        scan.skip_space();
        let start = scan.at;
        if scan.peek() != Some(b'{') {
            // Broken JSON is said to be broken; only what is JSON is said not to be an object.
            scan.value()?;
            scan.finish()?;
            return Err(Broken { at: start, why: "not an object" });
        }
        let unknown = self.find_here(&mut scan, row, into)?;
        scan.finish()?;
        Ok(unknown)
    }

    /// As `find`, of the object on which the scanner stands: cells are places in the scanner's text.
    fn find_here(
        &mut self,
        scan: &mut Scanner<'_>,
        row: usize,
        into: &mut Matrix,
    ) -> Result<u64, Broken> {
        let start = scan.at;
        let unknown = self.object(0, scan, row, into)?;
        let end = scan.at;
        for &column in &self.whole {
            // Whether there is an escape was lost on the way; to say so only costs time.
            *into.cell(row, column) = Cell {
                start: start as u32,
                len: (end - start) as u32 | Cell::ESCAPED | Cell::EXACT,
            };
        }
        Ok(unknown)
    }

    /// Gives the number of keys that the node does not name.
    fn object(
        &mut self,
        node: usize,
        scan: &mut Scanner<'_>,
        row: usize,
        into: &mut Matrix,
    ) -> Result<u64, Broken> {
        scan.open()?;
        scan.skip_space();
        if scan.peek() == Some(b'}') {
            scan.close();
            return Ok(0);
        }
        let mut unknown = 0;
        for place in 0.. {
            if scan.peek() != Some(b'"') {
                return scan.broken("a key in quotes is wanted here");
            }
            let found = self.field(node, place, scan)?;
            scan.colon()?;
            match found {
                Some(key) => self.take(node, key, scan, row, into)?,
                None => {
                    unknown += 1;
                    scan.value()?;
                }
            }
            if !scan.comma(b'}', "a comma or } is wanted here")? {
                break;
            }
        }
        Ok(unknown)
    }

    /// Steps over a key and says which one it is.
    #[inline(always)]
    fn field(
        &mut self,
        node: usize,
        place: usize,
        scan: &mut Scanner<'_>,
    ) -> Result<Option<usize>, Broken> {
        let (nth, is_root) = (node, node == 0);
        let node = &mut self.nodes[nth];
        if let Some(&Some(guess)) = node.order.get(place)
            && let Some(quoted) = &node.keys[guess].quoted
            && begins(&scan.text.as_bytes()[scan.at..], quoted.as_bytes())
        {
            scan.at += quoted.len();
            return Ok(Some(guess));
        }
        let start = scan.at;
        scan.escaped = false;
        scan.string()?;
        let raw = &scan.text[start + 1..scan.at - 1];
        let found = if scan.escaped {
            unescape(raw, &mut self.key);
            node.find(&self.key)
        } else {
            node.find(raw)
        };
        if found.is_none() && is_root && self.strange.get(place).is_none_or(|s| s != raw) {
            self.meet(place, raw);
        }
        let node = &mut self.nodes[nth];
        if place < node.order.len() {
            node.order[place] = found;
        } else if place < ORDER_MAX {
            node.order.push(found);
        }
        Ok(found)
    }

    /// Notes a key that no column names; one that comes at the same place again is not looked at.
    #[cold]
    fn meet(&mut self, place: usize, raw: &str) {
        if place < ORDER_MAX && self.new_names.len() < ORDER_MAX {
            self.strange.resize(self.strange.len().max(place + 1), String::new());
            raw.clone_into(&mut self.strange[place]);
            if !self.new_names.iter().any(|name| name == raw) {
                self.new_names.push(raw.to_owned());
            }
        }
    }

    pub fn take_new_names(&mut self) -> Vec<String> {
        std::mem::take(&mut self.new_names)
    }

    /// Steps over the value of a known key and keeps what columns want of it.
    #[inline(always)]
    fn take(
        &mut self,
        node: usize,
        key: usize,
        scan: &mut Scanner<'_>,
        row: usize,
        into: &mut Matrix,
    ) -> Result<(), Broken> {
        let start = scan.at;
        scan.escaped = false;
        if let Some(child) = self.nodes[node].keys[key].child {
            for &column in &self.nodes[node].keys[key].below {
                *into.cell(row, column) = Cell::ABSENT; // F-1
            }
            if scan.peek() == Some(b'{') {
                self.object(child, scan, row, into)?;
                scan.escaped = true; // as in `find`: not known here
            } else {
                scan.value()?;
            }
        } else {
            scan.value()?;
        }
        let len = (scan.at - start) as u32;
        let escaped = if scan.escaped { Cell::ESCAPED } else { 0 };
        for target in &self.nodes[node].keys[key].columns {
            let cell = into.cell(row, target.column);
            if target.exact {
                *cell = Cell { start: start as u32, len: len | escaped | Cell::EXACT };
            } else if cell.len & Cell::EXACT == 0 {
                *cell = Cell { start: start as u32, len: len | escaped }; // F-2
            }
        }
        Ok(())
    }
}

impl Node {
    #[inline]
    fn find(&self, name: &str) -> Option<usize> {
        let alike = &self.by_length[length_class(name)];
        alike.iter().copied().find(|&place| self.keys[place].name == name)
    }
}

fn length_class(name: &str) -> usize {
    name.len().min(31)
}

/// `tap_id` to `tapId`, as producers in Java and JavaScript write it. Underscores in front stay.
fn camel_case(name: &str) -> String {
    let body = name.trim_start_matches('_');
    let mut camel = name[..name.len() - body.len()].to_owned();
    let mut upper = false;
    for c in body.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                camel.extend(c.to_uppercase());
                upper = false;
            }
            c => camel.push(c),
        }
    }
    camel
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Encoding, PgType};

    fn column(name: &str, from: Option<&[&str]>) -> TopicColumn {
        let path = from.unwrap_or(&[name]).iter().map(|key| (*key).to_owned()).collect();
        TopicColumn {
            name: name.to_owned(),
            pg: PgType::Text,
            path,
            path_is_default: from.is_none(),
            optional: true,
            pii: None,
            encoding: Encoding::Plain,
        }
    }

    fn found(columns: &[TopicColumn], text: &str) -> (Vec<String>, u64) {
        let (mut fields, mut matrix) = (Fields::new(columns), Matrix::default());
        matrix.clear(2, columns.len());
        // Twice, so that the second pass goes by the order of the first.
        let first = fields.find(text, 0, &mut matrix).expect("JSON");
        let second = fields.find(text, 1, &mut matrix).expect("JSON");
        let row = |row: usize| -> Vec<String> {
            (0..columns.len()).map(|c| matrix.column(c)[row].raw(text).to_owned()).collect()
        };
        assert_eq!((row(0), first), (row(1), second));
        (row(0), first)
    }

    #[test]
    fn names_are_tried_as_they_are_and_in_camel_case_and_the_exact_one_wins() {
        let columns = [column("tap_id", None), column("stop", None)];
        for (text, cells, unknown) in [
            (r#"{"tap_id":1,"stop":2}"#, ["1", "2"], 0),
            (r#"{"stop":2,"tapId":1}"#, ["1", "2"], 0),
            (r#"{"tapId":1,"tap_id":3}"#, ["3", ""], 0),
            (r#"{"tap_id":3,"tapId":1}"#, ["3", ""], 0),
            (r#"{"tap_id":null,"tapId":1}"#, ["null", ""], 0),
            (r#"{"tap\u005fid":1,"x":[{"stop":9}],"stops":0}"#, ["1", ""], 2),
            (r#"{"stop":1,"stop":{"a":"}"}}"#, ["", r#"{"a":"}"}"#], 0),
            ("{}", ["", ""], 0),
        ] {
            assert_eq!(
                found(&columns, text),
                (cells.map(String::from).to_vec(), unknown),
                "{text}"
            );
        }
    }

    #[test]
    fn pointers_go_down_into_objects_and_the_last_of_a_repeated_key_counts_whole() {
        let columns = [
            column("id", Some(&["after", "id"])),
            column("deep", Some(&["after", "a", "b"])),
            column("after", Some(&["after"])),
            column("all", Some(&[])),
        ];
        for (text, cells) in [
            (r#"{"after":{"id":1,"a":{"b":2}}}"#, ["1", "2", r#"{"id":1,"a":{"b":2}}"#]),
            (r#"{"after":{"id":1},"after":{"a":{"b":2}}}"#, ["", "2", r#"{"a":{"b":2}}"#]),
            (r#"{"after":{"id":1},"after":7}"#, ["", "", "7"]),
            (r#"{"after":{"a":{"b":2},"a":null}}"#, ["", "", r#"{"a":{"b":2},"a":null}"#]),
            (r#"{"after":[{"id":1}]}"#, ["", "", r#"[{"id":1}]"#]),
            (r#"{"id":1}"#, ["", "", ""]),
        ] {
            let unknown = u64::from(!text.contains("after"));
            let cells = cells.iter().copied().chain([text]).map(String::from).collect();
            assert_eq!(found(&columns, text), (cells, unknown), "{text}");
        }
    }

    #[test]
    fn a_dropped_column_is_known_and_not_kept() {
        let mut columns = [column("name", None), column("stop", None)];
        columns[0].pii = Some(Pii::Drop);
        let (mut fields, mut matrix) = (Fields::new(&columns), Matrix::default());
        matrix.clear(1, 1);
        let text = r#"{"name":"Ada","stop":"N15","x":1}"#;
        assert_eq!(fields.find(text, 0, &mut matrix), Ok(1));
        assert_eq!(matrix.column(0)[0].raw(text), r#""N15""#);
    }

    #[test]
    fn camel_case_keeps_what_it_cannot_change() {
        for (name, camel) in
            [("tap_id", "tapId"), ("a_b_c", "aBC"), ("x", "x"), ("_x_y", "_xY"), ("a_1", "a1")]
        {
            assert_eq!(camel_case(name), camel);
        }
    }
}
