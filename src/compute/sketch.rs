//! Sketches of a cut's groups, and how two become one.
//!
//! Owns: what goes into a sketch, its bytes, what is read off it. Does not own: where sketches are
//! stored (`warehouse`).
//!
//! Counting is HyperLogLog of Apache DataSketches (its serialised form, any language reads it), with
//! the composite estimator, which depends on the registers alone: no order of merging shows in what
//! is read. Percentiles are DDSketch (the form of DataDog's sketches-java): counts per logarithmic
//! bin, which add. So M-2 holds of the estimates; of the bytes it does not (HyperLogLog keeps short
//! lists in order of arrival, DDSketch a sum).

use super::parts::Rows;
use crate::{
    catalog::{Estimate, SketchKind},
    error::{Error, Result},
};
use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, Float64Array, Int64Array},
    compute::cast,
    datatypes::{DataType, Decimal128Type, Float64Type, Int64Type},
};
use datafusion_common::DataFusionError;
use datasketches::{
    hash::value::raw_bytes,
    hll::{HllSketch, HllType, HllUnion},
};
use sketches_ddsketch::{Config, DDSketch};
use std::sync::Arc;

/// 2^12 registers: a standard error of 1.6 %.
const LG_K: u8 = 12;

pub struct Sketches {
    kind: SketchKind,
    /// By group.
    groups: Vec<Option<Sketch>>,
}

#[derive(Clone)]
pub enum Sketch {
    Distinct(HllSketch),
    Quantiles(Box<DDSketch>),
}

impl Sketch {
    fn new(kind: SketchKind) -> Result<Self> {
        Ok(match kind {
            SketchKind::Distinct => Self::Distinct(
                HllSketch::new(LG_K, HllType::Hll8)
                    .map_err(|e| Error::halt("make a sketch").because(e))?,
            ),
            SketchKind::Quantiles => Self::Quantiles(Box::new(DDSketch::new(Config::defaults()))),
        })
    }

    fn read(kind: SketchKind, bytes: &[u8]) -> Result<Self> {
        Ok(match kind {
            SketchKind::Distinct => Self::Distinct(
                HllSketch::deserialize(bytes)
                    .map_err(|e| Error::halt("read a sketch").because(e))?,
            ),
            SketchKind::Quantiles => Self::Quantiles(Box::new(
                DDSketch::from_java_bytes(bytes)
                    .map_err(|e| Error::halt("read a sketch").because(e))?,
            )),
        })
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Distinct(hll) => hll.serialize(),
            Self::Quantiles(dd) => dd.to_java_bytes(),
        }
    }

    /// Takes the other in.
    fn unite(&mut self, other: &Self) -> Result<()> {
        let failed = |e: String| Error::halt(format!("unite two sketches: {e}"));
        match (self, other) {
            (Self::Distinct(a), Self::Distinct(b)) => {
                let mut union = HllUnion::new(LG_K).map_err(|e| failed(e.to_string()))?;
                union.update(a);
                union.update(b);
                *a = union.to_sketch(HllType::Hll8);
                Ok(())
            }
            (Self::Quantiles(a), Self::Quantiles(b)) => {
                a.merge(b).map_err(|e| failed(e.to_string()))
            }
            _ => Err(failed("they are of two kinds".to_owned())),
        }
    }

    fn memory(&self) -> usize {
        match self {
            Self::Distinct(hll) => hll.estimated_size(),
            Self::Quantiles(dd) => size_of::<DDSketch>() + dd.length() * size_of::<u64>(),
        }
    }
}

impl Sketches {
    pub fn new(kind: SketchKind) -> Self {
        Self { kind, groups: Vec::new() }
    }

    pub fn add(&mut self, rows: &Rows<'_>) -> Result<(), DataFusionError> {
        self.groups.resize_with(rows.count, || None);
        let values = Values::of(&rows.args[0])?;
        for row in rows.kept().filter(|row| rows.args[0].is_valid(*row)) {
            let sketch = &mut self.groups[rows.groups[row]];
            if sketch.is_none() {
                let made = Sketch::new(self.kind);
                *sketch = Some(made.map_err(|e| DataFusionError::External(e.into()))?);
            }
            match sketch {
                Some(Sketch::Distinct(hll)) => values.count(row, hll),
                Some(Sketch::Quantiles(dd)) => values.place(row, dd),
                None => {}
            }
        }
        Ok(())
    }

    /// Takes out the sketches.
    pub fn take(&mut self) -> Vec<Option<Sketch>> {
        std::mem::take(&mut self.groups)
    }

    /// Unites the sketches of these groups with those of the groups `targets`, `count` by now.
    pub fn merge(
        &mut self,
        held: &[Option<Sketch>],
        sources: &[u32],
        targets: &[usize],
        count: usize,
    ) -> Result<()> {
        self.groups.resize_with(count, || None);
        for (source, target) in sources.iter().zip(targets) {
            // The last groups may have had no value.
            let Some(Some(new)) = held.get(*source as usize) else { continue };
            match &mut self.groups[*target] {
                Some(known) => known.unite(new)?,
                empty => *empty = Some(new.clone()),
            }
        }
        Ok(())
    }

    pub fn memory(&self) -> usize {
        let held: usize = self.groups.iter().flatten().map(Sketch::memory).sum();
        held + self.groups.capacity() * size_of::<Option<Sketch>>()
    }

    /// NULL where a group has no value.
    pub fn finish(&mut self, count: usize) -> ArrayRef {
        let mut groups = std::mem::take(&mut self.groups);
        groups.resize_with(count, || None);
        let bytes: BinaryArray =
            groups.iter().map(|sketch| sketch.as_ref().map(Sketch::bytes)).collect();
        Arc::new(bytes)
    }
}

/// Values by what is hashed of them: whole numbers, dates, instants and booleans as 64 bits, text
/// and bytes as they are, numeric by its 128 bits.
enum Values {
    Whole(Int64Array),
    Double(Float64Array),
    Wide(ArrayRef),
    Text(ArrayRef),
    Bytes(ArrayRef),
}

impl Values {
    fn of(array: &ArrayRef) -> Result<Self, DataFusionError> {
        Ok(match array.data_type() {
            DataType::Utf8 => Self::Text(array.clone()),
            DataType::Binary => Self::Bytes(array.clone()),
            DataType::Decimal128(..) => Self::Wide(array.clone()),
            DataType::Float64 => Self::Double(array.as_primitive::<Float64Type>().clone()),
            DataType::Date32 => {
                let days = cast(array, &DataType::Int32)?;
                Self::Whole(cast(&days, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
            }
            _ => Self::Whole(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone()),
        })
    }

    fn count(&self, row: usize, hll: &mut HllSketch) {
        match self {
            Self::Whole(values) => hll.update(values.value(row)),
            Self::Double(values) => hll.update(values.value(row).to_bits()),
            Self::Wide(values) => {
                let bits = values.as_primitive::<Decimal128Type>().value(row).to_le_bytes();
                hll.update(raw_bytes::from_slice(&bits));
            }
            Self::Text(values) => {
                hll.update(raw_bytes::from_str(values.as_string::<i32>().value(row)));
            }
            Self::Bytes(values) => {
                hll.update(raw_bytes::from_slice(values.as_binary::<i32>().value(row)));
            }
        }
    }

    /// Infinities count as the largest numbers; NaN, which has no place, does not count.
    fn place(&self, row: usize, dd: &mut DDSketch) {
        if let Self::Double(values) = self {
            let value = values.value(row);
            if !value.is_nan() {
                // One zero, or the least of the values would depend on which came first.
                dd.add(value.clamp(f64::MIN, f64::MAX) + 0.0);
            }
        }
    }
}

/// Both sketches as one.
pub fn united(kind: SketchKind, a: &[u8], b: &[u8]) -> Result<Vec<u8>> {
    let mut united = Sketch::read(kind, a)?;
    united.unite(&Sketch::read(kind, b)?)?;
    Ok(united.bytes())
}

/// What is read off each sketch: a number of values is 0 where there is none, a percentile NULL.
pub fn estimates(sketches: &BinaryArray, estimate: Estimate) -> Result<ArrayRef> {
    match estimate {
        Estimate::Distinct => {
            let one = |bytes: Option<&[u8]>| match bytes {
                None => Ok(0),
                Some(bytes) => match Sketch::read(SketchKind::Distinct, bytes)? {
                    Sketch::Distinct(hll) => Ok(hll.composite_estimate().round() as i64),
                    Sketch::Quantiles(_) => Ok(0),
                },
            };
            let counts = sketches.iter().map(one).collect::<Result<Vec<i64>>>()?;
            Ok(Arc::new(Int64Array::from(counts)))
        }
        Estimate::Quantile(share) => {
            let one = |bytes: Option<&[u8]>| match bytes {
                None => Ok(None),
                Some(bytes) => match Sketch::read(SketchKind::Quantiles, bytes)? {
                    Sketch::Quantiles(dd) => {
                        dd.quantile(share).map_err(|e| Error::halt("read a sketch").because(e))
                    }
                    Sketch::Distinct(_) => Ok(None),
                },
            };
            let values = sketches.iter().map(one).collect::<Result<Vec<Option<f64>>>>()?;
            Ok(Arc::new(Float64Array::from(values)))
        }
    }
}
