//! Which files of a lake a rewrite of some offsets replaces. Pure.
//!
//! Owns: widening what was asked for to borders of files. Does not own: reading and writing them.
//!
//! A file is replaced whole or not at all. So the spans grow until no file holds a row of within and a row of
//! without: over the files of a cut, which interleave; over its partitions; over files of retries, which lie
//! between those of cuts.

use crate::{
    record::{EventTime, Offset, Partition, Span},
    warehouse::snapshot::ManifestFile,
};
use std::collections::{BTreeMap, BTreeSet};

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub from: Bound,
    /// Without it all that the lake holds.
    pub to: Option<Bound>,
    /// All without it.
    pub partitions: Option<BTreeSet<Partition>>,
}

/// Where something begins, or ends before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    Beginning,
    /// In each partition.
    Offset(Offset),
    /// In these alone.
    Offsets(BTreeMap<Partition, Offset>),
    /// Files by the event times that they hold.
    Time(EventTime),
}

/// What it comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// From the first row of the files that are replaced to after their last.
    pub spans: BTreeMap<Partition, Span>,
    pub files: usize,
    pub rows: u64,
    pub bytes: u64,
    /// Offsets beyond those asked for, because files hold both.
    pub widened: bool,
    /// A file that is to be replaced and holds rows of a topic that is there no more.
    pub former: Option<String>,
}

impl Wanted {
    fn has(&self, file: &ManifestFile, partition: Partition, span: Span) -> bool {
        let asked = self.partitions.as_ref().is_none_or(|asked| asked.contains(&partition));
        let from = match &self.from {
            Bound::Beginning => true,
            Bound::Offset(from) => span.to > *from,
            Bound::Offsets(from) => from.get(&partition).is_some_and(|from| span.to > *from),
            Bound::Time(from) => file.event_time_max >= *from,
        };
        let to = match &self.to {
            None => true,
            Some(Bound::Beginning) => false,
            Some(Bound::Offset(to)) => span.from < *to,
            Some(Bound::Offsets(to)) => to.get(&partition).is_none_or(|to| span.from < *to),
            Some(Bound::Time(to)) => file.event_time_min < *to,
        };
        asked && from && to
    }

    /// The same offsets and no more.
    fn covers(&self, partition: Partition, span: Span) -> bool {
        let asked = self.partitions.as_ref().is_none_or(|asked| asked.contains(&partition));
        let from = match &self.from {
            Bound::Beginning | Bound::Time(_) => true,
            Bound::Offset(from) => span.from >= *from,
            Bound::Offsets(from) => from.get(&partition).is_some_and(|from| span.from >= *from),
        };
        let to = match &self.to {
            None | Some(Bound::Beginning | Bound::Time(_)) => true,
            Some(Bound::Offset(to)) => span.to <= *to,
            Some(Bound::Offsets(to)) => to.get(&partition).is_none_or(|to| span.to <= *to),
        };
        asked && from && to
    }
}

/// Files of one topic; `generations` are those in which its partitions stand: offsets of former ones are others.
pub fn reach(
    files: &[ManifestFile],
    generations: &BTreeMap<Partition, i32>,
    wanted: &Wanted,
) -> Reach {
    let now = |file: &ManifestFile, partition| {
        generations.get(&partition) == file.generations.get(&partition)
    };
    let mut found = Reach::default();
    let mut taken = vec![false; files.len()];
    loop {
        let before = found.files;
        for (file, taken) in files.iter().zip(&mut taken).filter(|(_, taken)| !**taken) {
            let touched = file.ranges.iter().any(|range| {
                let inside = found
                    .spans
                    .get(&range.partition)
                    .is_some_and(|span| range.span.from < span.to && range.span.to > span.from);
                now(file, range.partition)
                    && (inside || wanted.has(file, range.partition, range.span))
            });
            if !touched {
                continue;
            }
            *taken = true;
            found.files += 1;
            found.rows += file.rows;
            found.bytes += file.bytes;
            for range in &file.ranges {
                if !now(file, range.partition) {
                    found.former.get_or_insert_with(|| file.path.clone());
                    continue;
                }
                let span = found.spans.entry(range.partition).or_insert(range.span);
                *span = Span::new(span.from.min(range.span.from), span.to.max(range.span.to));
            }
        }
        if found.files == before {
            break;
        }
    }
    found.widened = found.spans.iter().any(|(p, span)| !wanted.covers(*p, *span));
    found
}

/// In which cut each offset of a partition lies: the number of the last one that begins at or before it, by
/// first offset. Written anew under these numbers, rows stay in the order of cuts (L-2).
pub fn sequences(
    files: &[ManifestFile],
    partition: Partition,
    generation: i32,
) -> BTreeMap<Offset, i64> {
    let mut begins: BTreeMap<Offset, i64> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.retry) {
        if file.generations.get(&partition) != Some(&generation) {
            continue;
        }
        for range in file.ranges.iter().filter(|range| range.partition == partition) {
            let known = begins.entry(range.span.from).or_insert(file.sequence);
            *known = file.sequence.max(*known);
        }
    }
    begins
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut::FileRange;
    use proptest::prelude::*;

    fn file(ranges: &[(i32, i64, i64)]) -> ManifestFile {
        let range = |(p, from, to): &(i32, i64, i64)| FileRange {
            partition: Partition(*p),
            span: Span::new(Offset(*from), Offset(*to)),
            rows: (to - from) as u64,
            extra_rows: 0,
        };
        ManifestFile {
            topic: "taps".into(),
            path: format!("{ranges:?}"),
            bytes: 1,
            rows: ranges.iter().map(|(_, from, to)| (to - from) as u64).sum(),
            checksum: String::new(),
            schema: String::new(),
            sequence: 1,
            completed: true,
            retry: false,
            generations: ranges.iter().map(|(p, ..)| (Partition(*p), 1)).collect(),
            ranges: ranges.iter().map(range).collect(),
            event_time_min: EventTime(0),
            event_time_max: EventTime(1),
        }
    }

    fn files() -> impl Strategy<Value = Vec<ManifestFile>> {
        let range = (0..3_i32, 0..60_i64, 1..12_i64);
        let one = prop::collection::vec(range, 1..3).prop_map(|mut ranges| {
            ranges.sort_unstable();
            ranges.dedup_by_key(|(p, ..)| *p);
            let ranges: Vec<_> =
                ranges.into_iter().map(|(p, from, n)| (p, from, from + n)).collect();
            file(&ranges)
        });
        prop::collection::vec(one, 1..14)
    }

    proptest! {
        #[test]
        fn no_file_holds_rows_of_within_and_of_without_and_nothing_smaller_would_do(
            files in files(), from in 0..70_i64, to in 0..70_i64, only in prop::option::of(0..3_i32),
        ) {
            let wanted = Wanted {
                from: Bound::Offset(Offset(from)),
                to: Some(Bound::Offset(Offset(to))),
                partitions: only.map(|p| BTreeSet::from([Partition(p)])),
            };
            let generations = (0..3).map(|p| (Partition(p), 1)).collect();
            let found = reach(&files, &generations, &wanted);
            // Offset by offset, until nothing grows: stupid on purpose.
            let mut within: BTreeSet<(i32, i64)> = BTreeSet::new();
            let mut taken: BTreeSet<usize> = BTreeSet::new();
            for (i, file) in files.iter().enumerate() {
                let asked = file.ranges.iter().any(|r| {
                    only.is_none_or(|p| p == r.partition.0) && (r.span.from.0..r.span.to.0).end > from && r.span.from.0 < to
                });
                if asked { taken.insert(i); }
            }
            loop {
                for i in &taken {
                    for r in &files[*i].ranges {
                        within.extend((r.span.from.0..r.span.to.0).map(|o| (r.partition.0, o)));
                    }
                }
                for p in 0..3 {
                    let own: Vec<i64> = within.iter().filter(|(q, _)| *q == p).map(|(_, o)| *o).collect();
                    if let (Some(least), Some(most)) = (own.first(), own.last()) {
                        within.extend((*least..=*most).map(|o| (p, o)));
                    }
                }
                let before = taken.len();
                for (i, file) in files.iter().enumerate() {
                    let touches = file.ranges.iter().any(|r| {
                        (r.span.from.0..r.span.to.0).any(|o| within.contains(&(r.partition.0, o)))
                    });
                    if touches { taken.insert(i); }
                }
                if taken.len() == before { break; }
            }
            let expected: BTreeSet<(i32, i64)> = within;
            let found_offsets: BTreeSet<(i32, i64)> = found.spans.iter()
                .flat_map(|(p, s)| (s.from.0..s.to.0).map(|o| (p.0, o))).collect();
            prop_assert_eq!(found_offsets, expected);
            prop_assert_eq!(found.files, taken.len());
        }
    }

    #[test]
    fn a_span_beyond_what_was_asked_for_is_told_and_rows_of_a_former_topic_are() {
        let files = [file(&[(0, 0, 10)]), file(&[(0, 10, 20), (1, 0, 5)]), file(&[(1, 5, 9)])];
        let generations = BTreeMap::from([(Partition(0), 1), (Partition(1), 1)]);
        let from = |from| Wanted { from: Bound::Offset(Offset(from)), to: None, partitions: None };
        assert!(!reach(&files, &generations, &from(0)).widened);
        let found = reach(&files, &generations, &from(15));
        assert!(found.widened && found.files == 1, "{found:?}");
        let began_anew = BTreeMap::from([(Partition(0), 1), (Partition(1), 2)]);
        let found = reach(&files, &began_anew, &from(0));
        assert_eq!(found.spans.keys().collect::<Vec<_>>(), [&Partition(0)]);
        assert!(found.former.is_some());
        let times = Wanted { from: Bound::Time(EventTime(2)), to: None, partitions: None };
        assert_eq!(reach(&files, &generations, &times), Reach::default());
    }
}
