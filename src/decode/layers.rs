//! Records from before a column was added or widened, beside those from after it.
//!
//! Owns: which records are decoded as the topic was, and their rows in the topic's newest schema.
//! Does not own: where an addition begins (`catalog::Addition`), decoding (`rows`).
//!
//! Almost every batch is of one layer. What is not is decoded layer by layer, and put together again in
//! the order given.

use super::{Before, Decoded, Met, Secret, rows::RowDecoder};
use crate::{
    catalog::Topic,
    record::{Partition, RawRecord, schemas::Schemas},
};
use arrow::{
    array::{Array, ArrayRef, BooleanArray, RecordBatch},
    compute::{cast, interleave, interleave_record_batch},
    datatypes::SchemaRef,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub struct Layers {
    topic: Arc<Topic>,
    /// By how many additions they count; the last one has all.
    decoders: Vec<RowDecoder>,
    /// From here on all additions hold: those of partitions that have such a place.
    newest: BTreeMap<Partition, i64>,
    /// The table that each partition's records came of last.
    met: BTreeMap<Partition, Met>,
    /// Told already.
    names: BTreeSet<String>,
}

impl Layers {
    pub fn new(topic: &Arc<Topic>, secret: Option<Secret>, schemas: &Arc<Schemas>) -> Self {
        let older = (0..topic.additions.len()).map(|additions| Arc::new(topic.layer(additions)));
        let layers = older.chain([topic.clone()]);
        let decoder = |topic| RowDecoder::new(topic, secret.clone(), schemas.clone());
        let since = topic.additions.last().map(|last| &last.since);
        let since = since.into_iter().flatten();
        Self {
            decoders: layers.map(decoder).collect(),
            newest: since.map(|(partition, since)| (*partition, since.0)).collect(),
            topic: topic.clone(),
            met: BTreeMap::new(),
            names: BTreeSet::new(),
        }
    }

    pub fn decode(&mut self, records: &[RawRecord<'_>]) -> Decoded {
        let is_newest = |run: &[RawRecord<'_>]| {
            let since = self.newest.get(&run[0].partition);
            since.is_none_or(|since| run.iter().all(|record| record.offset >= *since))
        };
        let mut runs = records.chunk_by(|a, b| a.partition == b.partition);
        let mut decoded = match self.newest.is_empty() || runs.all(is_newest) {
            true => self.decoders.last_mut().expect("the newest").decode(records),
            false => self.by_layer(records),
        };
        decoded.met.retain(|met| {
            let last = self.met.get(&met.partition).map(|last| &last.upstream);
            let same = last.is_some_and(|l| Arc::ptr_eq(l, &met.upstream) || *l == met.upstream);
            if !same {
                self.met.insert(met.partition, met.clone());
            }
            !same
        });
        decoded
    }

    pub fn take_new_names(&mut self) -> Vec<String> {
        let newest = self.decoders.last_mut().expect("the newest");
        let fresh = newest.take_new_names().into_iter();
        fresh.filter(|name| self.names.insert(name.clone())).collect()
    }

    fn by_layer(&mut self, records: &[RawRecord<'_>]) -> Decoded {
        let mut layers: Vec<Vec<usize>> = vec![Vec::new(); self.decoders.len()];
        for (index, record) in records.iter().enumerate() {
            layers[self.topic.layer_at(record.partition, record.offset)].push(index);
        }
        let mut whole = Whole::default();
        for (layer, indexes) in layers.iter().enumerate().filter(|(_, indexes)| !indexes.is_empty())
        {
            let own: Vec<_> = indexes.iter().map(|index| records[*index]).collect();
            let decoded = self.decoders[layer].decode(&own);
            whole.add(decoded, indexes, &self.topic.schema);
        }
        whole.in_order()
    }
}

/// Layers, put together.
#[derive(Default)]
struct Whole {
    parts: Vec<Decoded>,
    /// Of each row that there is: the record it is of, then the part and its place there.
    rows: Vec<(usize, (usize, usize))>,
}

impl Whole {
    fn add(&mut self, mut decoded: Decoded, indexes: &[usize], schema: &SchemaRef) {
        let gone: BTreeSet<usize> = decoded.rejects.iter().map(|r| r.record).collect();
        let gone: BTreeSet<usize> = gone.into_iter().chain(decoded.empty.iter().copied()).collect();
        let there = (0..indexes.len()).filter(|nth| !gone.contains(nth));
        let part = self.parts.len();
        self.rows.extend(there.enumerate().map(|(row, nth)| (indexes[nth], (part, row))));
        decoded.rejects.iter_mut().for_each(|reject| reject.record = indexes[reject.record]);
        decoded.empty.iter_mut().for_each(|record| *record = indexes[*record]);
        decoded.met.iter_mut().for_each(|met| met.record = indexes[met.record]);
        decoded.untold = decoded.untold.map(|record| indexes[record]);
        decoded.rows = widened(&decoded.rows, schema);
        if let Some(Before { rows, .. }) = &mut decoded.before {
            let fields = schema.fields().iter().take(rows.num_columns());
            let fields: Vec<_> = fields.map(|f| f.as_ref().clone().with_nullable(true)).collect();
            *rows = widened(rows, &Arc::new(arrow::datatypes::Schema::new(fields)));
        }
        self.parts.push(decoded);
    }

    fn in_order(mut self) -> Decoded {
        self.rows.sort_unstable();
        let places: Vec<(usize, usize)> = self.rows.iter().map(|(_, place)| *place).collect();
        let put = |batches: Vec<&RecordBatch>| {
            interleave_record_batch(&batches, &places).expect("batches of one schema")
        };
        let rows = put(self.parts.iter().map(|part| &part.rows).collect());
        let event_times = places.iter().map(|(part, row)| self.parts[*part].event_times[*row]);
        let event_times = event_times.collect();
        let before: Option<Vec<&Before>> = self.parts.iter().map(|p| p.before.as_ref()).collect();
        let before = before.map(|before| {
            let there: Vec<&dyn Array> = before.iter().map(|b| &b.there as &dyn Array).collect();
            let there: ArrayRef = interleave(&there, &places).expect("booleans");
            let there = there.as_any().downcast_ref::<BooleanArray>().expect("booleans").clone();
            Before { rows: put(before.iter().map(|before| &before.rows).collect()), there }
        });
        let unknown_fields = self.parts.iter().map(|part| part.unknown_fields).sum();
        let (mut rejects, mut empty, mut met) = (Vec::new(), Vec::new(), Vec::new());
        let untold = self.parts.iter().filter_map(|part| part.untold).min();
        for part in self.parts {
            rejects.extend(part.rejects);
            empty.extend(part.empty);
            met.extend(part.met);
        }
        rejects.sort_by_key(|reject| reject.record);
        empty.sort_unstable();
        met.sort_by_key(|met| met.record);
        let several = None;
        Decoded { rows, several, event_times, rejects, empty, before, unknown_fields, met, untold }
    }
}

/// The same rows, where columns have wider types.
fn widened(rows: &RecordBatch, schema: &SchemaRef) -> RecordBatch {
    let columns = rows.columns().iter().zip(schema.fields());
    let columns =
        columns.map(|(column, field)| cast(column, field.data_type()).expect("a wider type"));
    RecordBatch::try_new(schema.clone(), columns.collect()).expect("the same columns, wider")
}
