//! Marks of all generations of an output, and whether two outputs can be compared over them.
//!
//! Owns: what a place is. Does not own: rows (`deep`).

use super::super::shallow::Evidence;
use crate::record::{Mark, Offset, Output, Partition};
use std::collections::BTreeMap;

/// A partition within a generation: there an offset stands for one record.
pub(super) type Place = (Partition, i32);

/// Of one output.
#[derive(Default)]
pub(super) struct Marks {
    pub marks: BTreeMap<Place, Mark>,
    /// Offsets that were accepted as gone.
    pub lost: Vec<(Place, Offset, Offset)>,
}

impl Marks {
    pub fn of(evidence: &Evidence, topic: &str, output: &Output) -> Self {
        let mut found = Self::default();
        for m in evidence.all_marks().filter(|m| &*m.topic == topic && m.output == *output) {
            let place = (m.partition, m.generation);
            found.marks.insert(place, m.mark);
            let gaps = evidence.gaps_of(m).into_iter();
            found.lost.extend(gaps.map(|(from, to)| (place, from, to)));
        }
        found
    }
}

pub(super) fn place_of(partition: i32, generations: &BTreeMap<Partition, i32>) -> Place {
    let partition = Partition(partition);
    (partition, generations.get(&partition).copied().unwrap_or_default())
}

/// Every offset that the model has seen must be one that the lake has.
pub(super) fn comparable(model: &Marks, lake: &Marks) -> Result<(), String> {
    for (place, from, to) in &lake.lost {
        let Some(mark) = model.marks.get(place) else { continue };
        let (from, to) = ((*from).max(mark.first), (*to).min(mark.next));
        let lost_too = model.lost.iter().any(|(p, f, t)| p == place && *f <= from && to <= *t);
        if from < to && !lost_too {
            return Err(format!(
                "the lake lost offsets {}..{} of partition {}, which the table has",
                from.0, to.0, place.0.0
            ));
        }
    }
    let (model, lake) = (&model.marks, &lake.marks);
    if model.is_empty() {
        return Err("it has no marks yet".to_owned());
    }
    for (place, mark) in model {
        let partition = place.0;
        match lake.get(place) {
            Some(lake) if lake.first <= mark.first && lake.next >= mark.next => {}
            Some(lake) => {
                return Err(format!(
                    "the lake has {}..{} of partition {}, the table {}..{}; when the lake has caught up it can be",
                    lake.first.0, lake.next.0, partition.0, mark.first.0, mark.next.0
                ));
            }
            None => return Err(format!("the lake has nothing of partition {}", partition.0)),
        }
    }
    Ok(())
}
