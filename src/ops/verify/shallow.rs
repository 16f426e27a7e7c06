//! V-1 to V-5: marks, manifest and objects, without a look into the rows.

use super::{Report, deep::Rebuild};
use crate::{
    catalog::{Catalog, Place},
    error::Result,
    lake::{reader, store::Store},
    ops::status::Ends,
    record::{IdleAdvance, Offset, Output, Partition, Span},
    warehouse::{
        MarkRow, Warehouse, references,
        snapshot::{Counts, GapRow, ManifestFile, RefusedRow, RetriedRow, Snapshot},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What one snapshot of the warehouse says.
pub struct Evidence {
    pub marks: Vec<MarkRow>,
    /// Of generations that are over.
    pub former: Vec<MarkRow>,
    pub gaps: Vec<GapRow>,
    /// In order of (topic, sequence, path).
    pub files: Vec<ManifestFile>,
    pub dead_letters: Counts,
    pub duplicates: Counts,
    /// By place, with its generation.
    pub advances: Vec<(Arc<str>, i32, IdleAdvance)>,
    pub stray_letters: Vec<(String, String, i32, i64)>,
    pub retried: Vec<RetriedRow>,
    /// Rows of the lake that a model has refused.
    pub refused_alone: Vec<RefusedRow>,
    /// Of a model: records that it took and the lake refused.
    pub not_in_lake: Vec<(String, String, i64)>,
    /// In order of topic, output, partition, offset.
    pub references: Vec<references::Use>,
}

impl Evidence {
    /// Of all generations.
    pub fn all_marks(&self) -> impl Iterator<Item = &MarkRow> {
        self.former.iter().chain(&self.marks)
    }

    pub fn gaps_of(&self, m: &MarkRow) -> Vec<(Offset, Offset)> {
        let own = |gap: &&GapRow| {
            (&gap.topic, &gap.output, gap.partition, gap.generation)
                == (&m.topic, &m.output, m.partition, m.generation)
        };
        self.gaps.iter().filter(own).filter(|g| g.lost > 0).map(|g| (g.from, g.to)).collect()
    }
}

fn place(m: &MarkRow) -> String {
    let place = format!("{}/{} of {}", m.topic, m.partition.0, m.output);
    match m.generation {
        1 => place,
        generation => format!("{place}, generation {generation}"),
    }
}

/// V-1 and V-4.
pub fn counts(evidence: &Evidence, report: &mut Report) {
    report.marks = evidence.marks.len();
    for m in evidence.all_marks() {
        let passed = m.mark.next.0 - m.mark.first.0;
        let fates = m.mark.fates;
        let gaps = evidence.gaps_of(m);
        let accepted: i64 = gaps.iter().map(|(from, to)| to.0 - from.0).sum();
        if accepted != fates.lost as i64 {
            report.finding(
                "V-1",
                format!("{}: {} offsets lost, {accepted} accepted", place(m), fates.lost),
            );
        }
        if fates.total() as i64 != passed {
            report.finding(
                "V-1",
                format!(
                    "{}: {passed} offsets passed, but the fates sum to {}",
                    place(m),
                    fates.total()
                ),
            );
        }
        let key = (m.topic.clone(), m.output.clone(), m.partition, m.generation);
        let stored = evidence.dead_letters.get(&key).copied().unwrap_or_default();
        if stored != fates.dead {
            report.finding(
                "V-4",
                format!("{}: {} refused, {stored} dead letters stored", place(m), fates.dead),
            );
        }
        let recorded = evidence.duplicates.get(&key).copied().unwrap_or_default();
        if recorded != fates.duplicate {
            report.finding(
                "V-4",
                format!("{}: {} duplicates, {recorded} recorded", place(m), fates.duplicate),
            );
        }
        match &m.output {
            Output::DeadLetters => {}
            Output::Lake | Output::Model(_) => {
                // Over the same offsets every output must see the same holes.
                let letters = evidence.all_marks().find(|l| {
                    (&l.topic, &l.output, l.partition, l.generation)
                        == (&m.topic, &Output::DeadLetters, m.partition, m.generation)
                });
                let Some(letters) = letters else { continue };
                let same = letters.mark.first == m.mark.first
                    && letters.mark.next == m.mark.next
                    && evidence.gaps_of(letters) == gaps;
                if same && fates.absent != letters.mark.fates.absent {
                    report.finding(
                        "V-1",
                        format!(
                            "{}: {} offsets counted as absent, {} by the dead letters over the same offsets: \
                             records were passed over",
                            place(m), fates.absent, letters.mark.fates.absent
                        ),
                    );
                }
            }
        }
    }
    for (topic, output, partition, offset) in &evidence.stray_letters {
        report.finding(
            "V-4",
            format!("{topic}/{partition}@{offset}: a dead letter of {output} that no mark counts"),
        );
    }
}

/// V-2. Files of a retry hold offsets from between those of cuts, so they have part in the sums and
/// not in the order.
pub fn manifest(evidence: &Evidence, report: &mut Report) {
    report.files = evidence.files.len();
    report.bytes = evidence.files.iter().map(|f| f.bytes).sum();
    report.rows = evidence.files.iter().map(|f| f.rows).sum();
    let mut rows: BTreeMap<(Arc<str>, Partition, i32), u64> = BTreeMap::new();
    // The hull of each cut's ranges: those of one cut interleave, those of two must not meet.
    let mut cuts: BTreeMap<(Arc<str>, Partition, i32), BTreeMap<i64, Span>> = BTreeMap::new();
    let mut retries: BTreeMap<_, Vec<(&str, Span)>> = BTreeMap::new();
    for file in &evidence.files {
        let in_ranges: u64 = file.ranges.iter().map(|r| r.rows).sum();
        if in_ranges != file.rows {
            report.finding(
                "V-2",
                format!("{}: {} rows, {in_ranges} in its ranges", file.path, file.rows),
            );
        }
        for range in &file.ranges {
            let generation = file.generations[&range.partition];
            let key = (file.topic.clone(), range.partition, generation);
            *rows.entry(key.clone()).or_default() += range.records();
            if file.retry {
                retries.entry(key).or_default().push((&file.path, range.span));
                continue;
            }
            let hulls = cuts.entry(key).or_default();
            let hull = hulls.entry(file.sequence).or_insert(range.span);
            *hull = Span::new(hull.from.min(range.span.from), hull.to.max(range.span.to));
        }
    }
    for m in evidence.all_marks().filter(|m| m.output == Output::Lake) {
        let key = (m.topic.clone(), m.partition, m.generation);
        let found = rows.remove(&key).unwrap_or_default();
        let accepted = m.mark.fates.accepted;
        if found != accepted {
            report.finding(
                "V-2",
                format!("{}: {accepted} rows accepted, {found} in the manifest", place(m)),
            );
        }
        for (path, span) in retries.remove(&key).unwrap_or_default() {
            if span.from < m.mark.first || span.to > m.mark.next {
                report.finding(
                    "V-2",
                    format!(
                        "{}: {path} of a retry holds {}..{}, outside of {}..{} that the mark covers",
                        place(m), span.from.0, span.to.0, m.mark.first.0, m.mark.next.0
                    ),
                );
            }
        }
        let mut before: Option<(i64, Span)> = None;
        for (sequence, hull) in cuts.remove(&key).unwrap_or_default() {
            if hull.from < m.mark.first || hull.to > m.mark.next {
                report.finding(
                    "V-2",
                    format!(
                        "{}: cut {sequence} holds {}..{}, outside of {}..{} that the mark covers",
                        place(m),
                        hull.from.0,
                        hull.to.0,
                        m.mark.first.0,
                        m.mark.next.0
                    ),
                );
            }
            if let Some((earlier, there)) = before
                && hull.from < there.to
            {
                report.finding(
                    "V-2",
                    format!(
                        "{}: cuts {earlier} and {sequence} both hold {}..{}",
                        place(m),
                        hull.from.0,
                        there.to.min(hull.to).0
                    ),
                );
            }
            before = Some((sequence, hull));
        }
    }
    for ((topic, partition, _), rows) in rows {
        report.finding(
            "V-2",
            format!("{topic}/{}: {rows} rows of files that no mark covers", partition.0),
        );
    }
}

/// V-5.
pub fn ends(marks: &[MarkRow], ends: &Ends, report: &mut Report) {
    let mut unknown = BTreeSet::new();
    for m in marks {
        match ends.get(&(m.topic.clone(), m.partition)) {
            Some(end) if m.mark.next > *end => report.finding(
                "V-5",
                format!(
                    "{}: the mark is at {}, Kafka ends at {}: the topic was made again, Kafka lost records, or the mark \
                     was moved by hand; `highwater status` says what is gone",
                    place(m), m.mark.next.0, end.0
                ),
            ),
            Some(_) => {}
            None => drop(unknown.insert(m.topic.clone())),
        }
    }
    for topic in unknown {
        report.note(format!(
            "the ends of {topic} are not known: Kafka did not tell, or it is not declared"
        ));
    }
}

/// V-3 for the files of the manifest; their rows go on to the deep part, cut by cut.
pub async fn objects(
    evidence: &Evidence,
    store: &Store,
    report: &mut Report,
    mut rebuild: Option<&mut Rebuild>,
    snapshot: &Snapshot,
) -> Result<()> {
    let (retries, cuts): (Vec<_>, Vec<_>) = evidence.files.iter().cloned().partition(|f| f.retry);
    // Rows of retries first: the deep part puts each among the rows of the cut that passed it.
    let same = |a: &ManifestFile, b: &ManifestFile| {
        (&a.topic, a.retry, a.sequence) == (&b.topic, b.retry, b.sequence)
    };
    for cut in retries.chunk_by(same).chain(cuts.chunk_by(same)) {
        let mut contents = Vec::new();
        for file in cut {
            if !file.completed {
                report.note(format!(
                    "{} is committed and waits to be completed: a running highwater, or the next start, does it",
                    file.path
                ));
                continue;
            }
            if let Some(bytes) = whole(file, store, report).await? {
                contents.push((file, bytes));
            }
        }
        if let Some(rebuild) = &mut rebuild {
            rebuild.cut(cut, contents, snapshot, report).await?;
        }
    }
    Ok(())
}

async fn whole(
    file: &ManifestFile,
    store: &Store,
    report: &mut Report,
) -> Result<Option<bytes::Bytes>> {
    match store.size(&file.path).await? {
        None => {
            report.finding(
                "V-3",
                format!("{} is not there; {} rows are missing", file.path, file.rows),
            );
            return Ok(None);
        }
        Some(size) if size != file.bytes => {
            report.finding(
                "V-3",
                format!("{} has {size} bytes, {} were written", file.path, file.bytes),
            );
            return Ok(None);
        }
        Some(_) => {}
    }
    let bytes = store.read(&file.path).await?;
    let found = reader::checksum(&bytes);
    if found != file.checksum {
        report.finding(
            "V-3",
            format!(
                "{} was altered: its checksum is {found}, {} was written",
                file.path, file.checksum
            ),
        );
        return Ok(None);
    }
    Ok(Some(bytes))
}

/// V-3 for everything else: what is there and in no manifest. The objects are listed before the
/// manifest is read once more, so a file committed meanwhile is no orphan.
pub async fn orphans(
    warehouse: &Warehouse,
    store: Option<&Store>,
    catalog: &Catalog,
    report: &mut Report,
) -> Result<()> {
    let Some(store) = store else { return Ok(()) };
    let there = store.list("").await?;
    let snapshot = warehouse.snapshot().await?;
    let mut known: BTreeSet<String> = snapshot.files().await?.into_iter().map(|f| f.path).collect();
    let retired = snapshot.retired().await?;
    if !retired.is_empty() {
        report.note(format!(
            "{} files of before a replay of the lake wait out their grace: who lists the lake reads \
             highwater.lake_current_files instead",
            retired.len()
        ));
    }
    known.extend(retired);
    known.extend(catalog.references.values().filter_map(|reference| match &reference.place {
        Place::Lake { path, .. } => Some(path.clone()),
        Place::Table(_) => None,
    }));
    snapshot.end().await?;
    for (path, bytes) in there.into_iter().filter(|(path, _)| !known.contains(path)) {
        report.finding("V-3", format!("{path} ({bytes} bytes) is in no manifest: readers count its rows twice, or rows that nobody committed"));
    }
    Ok(())
}
