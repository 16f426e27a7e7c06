//! The keys of changes and of stored rows: which row has which.
//!
//! Owns: numbers of keys, in order of their values. Does not own: what becomes of a row (`fold`).
//!
//! Keys are sorted, not hashed: what is written goes in their order anyway (W-2), and no memory is
//! asked for per key.

use crate::error::{Error, Result};
use arrow::{
    array::{Array, ArrayRef},
    compute::interleave,
    row::{RowConverter, Rows, SortField},
};

/// Stored rows, operations, and what the keys of operations were before.
pub const STORED: usize = 0;
pub const NOW: usize = 1;
pub const BEFORE: usize = 2;

/// Rows that name keys.
pub struct Named<'a> {
    pub keys: &'a [ArrayRef],
    /// Those that count.
    pub rows: Vec<usize>,
}

pub struct Keys<'a> {
    /// By batch and row; of rows that do not count it says nothing.
    ids: [Vec<u32>; 3],
    /// By key: a batch and a row of it that has the key; the first of all.
    places: Vec<(usize, usize)>,
    arrays: [&'a [ArrayRef]; 3],
}

/// A row's key, by which it is sorted: its first bytes, and where the rest is.
struct Entry {
    begin: u128,
    batch: u32,
    row: u32,
}

impl<'a> Keys<'a> {
    /// Of `STORED`, `NOW` and `BEFORE`.
    pub fn new(named: [Named<'a>; 3]) -> Result<Self> {
        let failed = |e| Error::halt("compare keys of changes").because(e);
        let fields = named[NOW].keys.iter().map(|key| SortField::new(key.data_type().clone()));
        let converter = RowConverter::new(fields.collect()).map_err(failed)?;
        let bytes = named.each_ref().map(|named| match named.rows.is_empty() {
            true => Ok(converter.empty_rows(0, 0)),
            false => converter.convert_columns(named.keys).map_err(failed),
        });
        let [stored, now, before] = bytes;
        let bytes: [Rows; 3] = [stored?, now?, before?];
        let rest = |entry: &Entry| bytes[entry.batch as usize].row(entry.row as usize).data();

        let mut entries = Vec::with_capacity(named.iter().map(|named| named.rows.len()).sum());
        for (batch, named) in named.iter().enumerate() {
            entries.extend(named.rows.iter().map(|&row| {
                let begin = begin(bytes[batch].row(row).data());
                Entry { begin, batch: batch as u32, row: row as u32 }
            }));
        }
        entries.sort_unstable_by(|a, b| {
            let same = a.begin.cmp(&b.begin).then_with(|| rest(a).cmp(rest(b)));
            same.then_with(|| (a.batch, a.row).cmp(&(b.batch, b.row)))
        });
        let mut keys = Self {
            ids: named
                .each_ref()
                .map(|named| vec![0; named.rows.iter().copied().max().map_or(0, |last| last + 1)]),
            places: Vec::new(),
            arrays: named.each_ref().map(|named| named.keys),
        };
        for (nth, entry) in entries.iter().enumerate() {
            let last = nth.checked_sub(1).map(|last| &entries[last]);
            if last.is_none_or(|last| last.begin != entry.begin || rest(last) != rest(entry)) {
                keys.places.push((entry.batch as usize, entry.row as usize));
            }
            keys.ids[entry.batch as usize][entry.row as usize] = (keys.places.len() - 1) as u32;
        }
        Ok(keys)
    }

    /// How many there are: ids count them, in order of their values.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn id(&self, batch: usize, row: usize) -> usize {
        self.ids[batch][row] as usize
    }

    /// The stored row that has the key.
    pub fn stored(&self, id: usize) -> Option<usize> {
        let (batch, row) = self.places[id];
        (batch == STORED).then_some(row)
    }

    /// The columns of these keys.
    pub fn columns(&self, ids: impl IntoIterator<Item = usize>) -> Result<Vec<ArrayRef>> {
        let places: Vec<_> = ids.into_iter().map(|id| self.places[id]).collect();
        let column = |i: usize| {
            let arrays: Vec<&dyn Array> = self.arrays.iter().map(|keys| keys[i].as_ref()).collect();
            interleave(&arrays, &places).map_err(|e| Error::halt("take keys of changes").because(e))
        };
        (0..self.arrays[NOW].len()).map(column).collect()
    }
}

/// What sorts as the bytes do, as far as sixteen of them tell.
fn begin(bytes: &[u8]) -> u128 {
    let mut begin = [0; 16];
    let len = bytes.len().min(16);
    begin[..len].copy_from_slice(&bytes[..len]);
    u128::from_be_bytes(begin)
}
