//! Two counts of the same records, made in two places, held against each other (C-2).

use super::worker::Move;
use crate::{
    compute::Counted,
    cut::Advance,
    record::{Offset, Output, Partition, RawRecord},
};
use std::collections::BTreeMap;

/// Adds the records at or above `from`.
pub fn add(
    counts: &mut BTreeMap<Partition, u64>,
    records: &[RawRecord<'_>],
    from: &[(Partition, Offset)],
) {
    for run in records.chunk_by(|a, b| a.partition == b.partition) {
        let partition = run[0].partition;
        let Some((_, floor)) = from.iter().find(|(p, _)| *p == partition) else { continue };
        let count = run.iter().filter(|r| r.offset >= floor.0).count() as u64;
        *counts.entry(partition).or_default() += count;
    }
}

/// The marks to move, with a fate for each offset: what no record stands at is absent.
///
/// Panics where a stage lost or invented a record: committing that would be a silent loss.
pub fn advances(
    topic: &str,
    moves: Vec<Move>,
    counts: &BTreeMap<(Output, Partition), Counted>,
    records: &BTreeMap<Partition, u64>,
) -> Vec<Advance> {
    let mut lowest: BTreeMap<Partition, Offset> = BTreeMap::new();
    for moved in &moves {
        let from = lowest.entry(moved.partition).or_insert(moved.span.from);
        *from = (*from).min(moved.span.from);
    }
    let advance = |moved: Move| {
        let counted = counts.get(&(moved.output.clone(), moved.partition));
        let Counted { mut fates, event_time_max } = counted.copied().unwrap_or_default();
        let admitted = records.get(&moved.partition).copied().unwrap_or_default();
        let place = format!(
            "{topic}/{}@{}..{} of {}",
            moved.partition.0, moved.span.from.0, moved.span.to.0, moved.output
        );
        if moved.span.from == lowest[&moved.partition] {
            assert_eq!(fates.total(), admitted, "C-2: fates and records differ at {place}");
        }
        assert!(fates.total() <= moved.span.len(), "C-2: more fates than offsets at {place}");
        fates.absent = moved.span.len() - fates.total();
        Advance {
            output: moved.output,
            partition: moved.partition,
            span: moved.span,
            epoch: moved.epoch,
            fates,
            event_time_max,
            sequence: moved.sequence,
        }
    };
    moves.into_iter().map(advance).collect()
}
