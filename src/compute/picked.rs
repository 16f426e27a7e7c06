//! The one row of each group that first_value, last_value, arg_min and arg_max choose.
//!
//! Owns: the choice, a total order of rows: by the second argument if there is one, then by event
//! time, partition and offset, which no two rows share. So any order of arrival and any cuts agree.
//! Does not own: the same choice between a delta and the stored row (`warehouse::merging`).
//!
//! Numbers compare as PostgreSQL has it: -0 equals 0, NaN equals itself and is above all.

use super::parts::Rows;
use crate::catalog::{Extreme, Pick, types::timestamp};
use arrow::{
    array::{
        Array, ArrayRef, AsArray, Int32Array, Int64Array, TimestampMicrosecondArray, UInt32Array,
        new_null_array,
    },
    compute::take,
    datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type},
    row::{OwnedRow, RowConverter, SortField},
};
use datafusion_common::DataFusionError;
use std::{cmp::Ordering, sync::Arc};

/// (event time, partition, offset).
type Place = (i64, i32, i64);

pub struct Picked {
    pick: Pick,
    value_type: DataType,
    values: RowConverter,
    by: Option<RowConverter>,
    /// By group.
    best: Vec<Option<Best>>,
    memory: usize,
}

#[derive(Clone)]
pub struct Best {
    by: Option<OwnedRow>,
    place: Place,
    value: OwnedRow,
}

impl Best {
    fn bytes(&self) -> usize {
        let by = self.by.as_ref().map_or(0, |row| row.as_ref().len());
        by + self.value.as_ref().len()
    }
}

impl Picked {
    pub fn new(pick: Pick, args: &[DataType]) -> Result<Self, DataFusionError> {
        let converter = |of: &DataType| RowConverter::new(vec![SortField::new(of.clone())]);
        Ok(Self {
            pick,
            value_type: args[0].clone(),
            values: converter(&args[0])?,
            by: args.get(1).map(converter).transpose()?,
            best: Vec::new(),
            memory: 0,
        })
    }

    pub fn add(&mut self, rows: &Rows<'_>) -> Result<(), DataFusionError> {
        self.best.resize_with(rows.count, || None);
        let partitions = rows.input.partitions.as_primitive::<Int32Type>().values();
        let offsets = rows.input.offsets.as_primitive::<Int64Type>().values();
        let place = |row: usize| (rows.input.event_times[row].0, partitions[row], offsets[row]);
        let by_array = rows.args.get(1).map(|by| as_compared(by));
        let by = match (&self.by, &by_array) {
            (Some(converter), Some(by)) => {
                Some(converter.convert_columns(std::slice::from_ref(by))?)
            }
            _ => None,
        };
        let pick = self.pick;
        // The best row of each group in this batch; only those are looked at closer.
        let mut here: Vec<Option<u32>> = vec![None; rows.count];
        for row in rows.kept() {
            if by_array.as_ref().is_some_and(|by| by.is_null(row)) {
                continue;
            }
            let known = &mut here[rows.groups[row]];
            let wins = known.is_none_or(|known| {
                let known = known as usize;
                let by = by.as_ref().map(|by| (by.row(row).data(), by.row(known).data()));
                // Of rows of one record at one time the one behind is the later.
                better(pick, by, ((place(row), row), (place(known), known)))
            });
            if wins {
                *known = Some(row as u32);
            }
        }
        let winners = here.iter().enumerate().filter_map(|(group, row)| Some((group, (*row)?)));
        let winners: Vec<(usize, u32)> = winners
            .filter(|(group, row)| {
                let row = *row as usize;
                self.best[*group].as_ref().is_none_or(|best| {
                    let by = by.as_ref().map(|by| by.row(row).data());
                    let known = best.by.as_ref().map(|known| known.as_ref());
                    better(pick, by.zip(known), (place(row), best.place))
                })
            })
            .collect();
        let chosen = UInt32Array::from_iter_values(winners.iter().map(|(_, row)| *row));
        let values = take(&rows.args[0], &chosen, None)?;
        let values = self.values.convert_columns(&[values])?;
        for (i, (group, row)) in winners.into_iter().enumerate() {
            let row = row as usize;
            let by = by.as_ref().map(|by| by.row(row).owned());
            let best = Best { by, place: place(row), value: values.row(i).owned() };
            self.memory += best.bytes();
            if let Some(before) = self.best[group].replace(best) {
                self.memory -= before.bytes();
            }
        }
        Ok(())
    }

    /// Takes out the rows chosen.
    pub fn take(&mut self) -> Vec<Option<Best>> {
        self.memory = 0;
        std::mem::take(&mut self.best)
    }

    /// Lets what was chosen in these groups compete in the groups `targets`, `count` by now. It was
    /// taken out of this very part, whose converters read it.
    pub fn merge(
        &mut self,
        held: &[Option<Best>],
        sources: &[u32],
        targets: &[usize],
        count: usize,
    ) {
        self.best.resize_with(count, || None);
        for (source, target) in sources.iter().zip(targets) {
            // The last groups may have had no row to choose from.
            let Some(Some(new)) = held.get(*source as usize) else { continue };
            let known = &mut self.best[*target];
            let wins = known.as_ref().is_none_or(|known| {
                let by = new.by.as_ref().zip(known.by.as_ref());
                let by = by.map(|(new, known)| (new.as_ref(), known.as_ref()));
                better(self.pick, by, (new.place, known.place))
            });
            if wins {
                self.memory += new.bytes();
                if let Some(before) = known.replace(new.clone()) {
                    self.memory -= before.bytes();
                }
            }
        }
    }

    pub fn memory(&self) -> usize {
        self.best.capacity() * size_of::<Option<Best>>() + self.memory
    }

    /// Value, what it was chosen by, event time, partition, offset.
    pub fn finish(&mut self, count: usize) -> Result<Vec<ArrayRef>, DataFusionError> {
        let mut best = std::mem::take(&mut self.best);
        best.resize_with(count, || None);
        self.memory = 0;
        let mut place_in = 0u32;
        let places = best.iter().map(|best| {
            best.as_ref().map(|_| {
                place_in += 1;
                place_in - 1
            })
        });
        let places: UInt32Array = places.collect();
        let there = || best.iter().flatten();
        let spread = |converter: &RowConverter, of: Vec<&OwnedRow>, data_type: &DataType| match of
            .is_empty()
        {
            true => Ok(new_null_array(data_type, count)),
            false => {
                let arrays = converter.convert_rows(of.into_iter().map(OwnedRow::row))?;
                take(&arrays[0], &places, None)
            }
        };
        let mut columns =
            vec![spread(&self.values, there().map(|b| &b.value).collect(), &self.value_type)?];
        if let Some(by) = &self.by {
            let rows: Vec<_> = there().filter_map(|best| best.by.as_ref()).collect();
            let data_type = by_type(by)?;
            columns.push(spread(by, rows, &data_type)?);
        }
        let place = |of: fn(&Place) -> i64| {
            best.iter().map(move |best| best.as_ref().map(|b| of(&b.place)))
        };
        let times: TimestampMicrosecondArray = place(|p| p.0).collect();
        let partitions: Int32Array =
            best.iter().map(|best| best.as_ref().map(|b| b.place.1)).collect();
        let offsets: Int64Array = place(|p| p.2).collect();
        columns.push(Arc::new(times.with_data_type(timestamp())));
        columns.push(Arc::new(partitions));
        columns.push(Arc::new(offsets));
        Ok(columns)
    }
}

/// Whether the first row of each pair wins over the second.
fn better<P: Ord>(pick: Pick, by: Option<(&[u8], &[u8])>, places: (P, P)) -> bool {
    let by = by.map_or(Ordering::Equal, |(a, b)| a.cmp(b));
    let by = if pick.by() == Some(Extreme::Least) { by.reverse() } else { by };
    let places = places.0.cmp(&places.1);
    by.then(if pick.place() == Extreme::Least { places.reverse() } else { places })
        == Ordering::Greater
}

/// The type that a converter gives back.
fn by_type(converter: &RowConverter) -> Result<DataType, DataFusionError> {
    Ok(converter.convert_rows([])?[0].data_type().clone())
}

/// One zero and one NaN, so that bytes order as values do.
fn as_compared(by: &ArrayRef) -> ArrayRef {
    match by.data_type() {
        DataType::Float32 => Arc::new(
            by.as_primitive::<Float32Type>()
                .unary::<_, Float32Type>(|v| if v.is_nan() { f32::NAN } else { v + 0.0 }),
        ),
        DataType::Float64 => Arc::new(
            by.as_primitive::<Float64Type>()
                .unary::<_, Float64Type>(|v| if v.is_nan() { f64::NAN } else { v + 0.0 }),
        ),
        _ => by.clone(),
    }
}
