//! Dead letters in PostgreSQL: stored by a cut, read by people.
//!
//! Owns: the rows of a letter and of its refusals. Does not own: putting them right (`retry`).

use super::{
    DeadLetterCount, DeadLetterFilter, RefusalRow, StoredDeadLetter, Warehouse,
    encode::Instant,
    listing::output,
    postgres::{Parameter, Row, Session},
};
use crate::{
    cut::{DeadLetter, Raw},
    error::Result,
    record::{EventTime, Partition},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde_json::{Value, json};

/// Dead letters of one statement: at most so many, and so many bytes of keys and values.
const DEAD_LETTERS_MAX: usize = 1_000;
const DEAD_LETTER_BYTES_MAX: usize = 16 << 20;

impl Warehouse {
    /// By topic, output, class.
    pub async fn dead_letter_counts(
        &self,
        filter: &DeadLetterFilter,
    ) -> Result<Vec<DeadLetterCount>> {
        let sql = include_str!("../../sql/warehouse/dead_letter_counts.sql");
        let values: [Parameter; 3] = [&filter.topics, &filter.output, &filter.class];
        let rows = self.read("count dead letters", sql, &values).await?;
        let count = |row: &Row| {
            Ok(DeadLetterCount {
                topic: row.get::<_, &str>(0).into(),
                output: output(row.get(1))?,
                class: row.get(2),
                count: row.get::<_, i64>(3) as u64,
                last_stored_at: row.get::<_, Instant>(4).0,
            })
        };
        rows.iter().map(count).collect()
    }

    /// The last `limit` that were stored, the newest first.
    pub async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        limit: u32,
    ) -> Result<Vec<StoredDeadLetter>> {
        let sql = include_str!("../../sql/warehouse/list_dead_letters.sql");
        let limit = i64::from(limit);
        let values: [Parameter; 4] = [&filter.topics, &filter.output, &filter.class, &limit];
        let rows = self.read("read dead letters", sql, &values).await?;
        rows.iter().map(stored).collect()
    }

    /// The letters of one record, with who counts it as dead or has taken it since.
    pub async fn dead_letters_at(
        &self,
        topic: &str,
        partition: Partition,
        offset: i64,
    ) -> Result<(Vec<StoredDeadLetter>, Vec<RefusalRow>)> {
        let place: [Parameter; 3] = [&topic, &partition.0, &offset];
        let sql = include_str!("../../sql/warehouse/show_dead_letters.sql");
        let letters = self.read("read a dead letter", sql, &place).await?;
        let sql = include_str!("../../sql/warehouse/refusals_of.sql");
        let refusals = self.read("read who refuses a record", sql, &place).await?;
        let refusal = |row: &Row| {
            Ok(RefusalRow {
                output: output(row.get(0))?,
                letter: output(row.get(1))?,
                event_time_max: row.get::<_, Option<Instant>>(2).map(|i| EventTime(i.0)),
                retried_at: row.get::<_, Option<Instant>>(3).map(|i| i.0),
                generation: row.get(4),
            })
        };
        Ok((
            letters.iter().map(stored).collect::<Result<_>>()?,
            refusals.iter().map(refusal).collect::<Result<_>>()?,
        ))
    }

    /// The oldest letters of these partitions that were not sent on, and how many there are.
    pub async fn letters_to_forward(
        &self,
        topic: &str,
        partitions: &[Partition],
        limit: i64,
    ) -> Result<(Vec<StoredDeadLetter>, u64)> {
        let partitions: Vec<i32> = partitions.iter().map(|p| p.0).collect();
        let sql = include_str!("../../sql/warehouse/letters_to_forward.sql");
        let values: [Parameter; 3] = [&topic, &partitions, &limit];
        let rows = self.read("read dead letters to forward", sql, &values).await?;
        let waiting = rows.first().map_or(0, |row| row.get::<_, i64>(15) as u64);
        Ok((rows.iter().map(stored).collect::<Result<_>>()?, waiting))
    }

    /// Kafka has confirmed these.
    pub async fn forwarded(&self, topic: &str, letters: &[&StoredDeadLetter]) -> Result<()> {
        let outputs: Vec<_> = letters.iter().map(|letter| letter.output.to_string()).collect();
        let partitions: Vec<_> = letters.iter().map(|letter| letter.partition.0).collect();
        let offsets: Vec<_> = letters.iter().map(|letter| letter.offset).collect();
        let sql = include_str!("../../sql/warehouse/mark_forwarded.sql");
        let generations: Vec<_> = letters.iter().map(|letter| letter.generation).collect();
        let values: [Parameter; 5] = [&topic, &outputs, &partitions, &offsets, &generations];
        self.change("note dead letters as forwarded", sql, &values).await
    }
}

fn stored(row: &Row) -> Result<StoredDeadLetter> {
    Ok(StoredDeadLetter {
        topic: row.get::<_, &str>(0).into(),
        output: output(row.get(1))?,
        partition: Partition(row.get(2)),
        offset: row.get(3),
        timestamp: EventTime(row.get::<_, Instant>(4).0),
        class: row.get(5),
        column: row.get(6),
        reason: row.get(7),
        raw: row.get(8),
        key: row.get(9),
        value: row.get(10),
        headers: row.get(11),
        stored_at: row.get::<_, Instant>(12).0,
        forwarded_at: row.get::<_, Option<Instant>>(13).map(|instant| instant.0),
        generation: row.get(14),
    })
}

/// Stores letters and who refuses what, in order of place: both lanes of a partition do (W-2).
pub(super) async fn add_dead_letters(
    session: &Session,
    doing: &str,
    topic: &str,
    letters: &[DeadLetter],
) -> Result<()> {
    let doing = format!("{doing}: store dead letters");
    let sql = include_str!("../../sql/warehouse/insert_dead_letters.sql");
    let mut letters: Vec<&DeadLetter> = letters.iter().collect();
    letters.sort_by(|a, b| {
        (a.partition, a.offset, &a.output).cmp(&(b.partition, b.offset, &b.output))
    });
    let mut rest = letters.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |letter: &&&DeadLetter| {
            bytes += letter.raw.as_ref().map_or(0, Raw::len);
            bytes <= DEAD_LETTER_BYTES_MAX
        };
        let count = rest.iter().take(DEAD_LETTERS_MAX).take_while(fits).count().max(1);
        let (now, later) = rest.split_at(count);
        rest = later;
        let outputs: Vec<_> = now.iter().map(|d| d.output.to_string()).collect();
        let partitions: Vec<_> = now.iter().map(|d| d.partition.0).collect();
        let offsets: Vec<_> = now.iter().map(|d| d.offset).collect();
        let timestamps: Vec<_> = now.iter().map(|d| Instant(d.timestamp.0)).collect();
        let classes: Vec<_> = now.iter().map(|d| d.class).collect();
        let columns: Vec<_> = now.iter().map(|d| d.column.as_deref().map(printable)).collect();
        let reasons: Vec<_> = now.iter().map(|d| printable(&d.reason)).collect();
        let keys: Vec<_> = now.iter().map(|d| d.raw.as_ref()?.key.as_deref()).collect();
        let contents: Vec<_> = now.iter().map(|d| d.raw.as_ref()?.value.as_deref()).collect();
        let headers: Vec<_> = now
            .iter()
            .map(|d| headers(d.raw.as_ref().map_or(&[], |raw| raw.headers.as_slice())))
            .collect();
        let raw: Vec<_> = now.iter().map(|d| d.raw.is_some()).collect();
        // Whose mark says which generation it is.
        let by: Vec<_> =
            now.iter().map(|d| d.refused_by.first().map(|(o, _)| o.to_string())).collect();
        let parameters: [Parameter; 13] = [
            &topic,
            &outputs,
            &partitions,
            &offsets,
            &timestamps,
            &classes,
            &columns,
            &reasons,
            &keys,
            &contents,
            &headers,
            &raw,
            &by,
        ];
        session.execute(&doing, sql, &parameters).await?;
        add_refusals(session, &doing, topic, now).await?;
    }
    Ok(())
}

async fn add_refusals(
    session: &Session,
    doing: &str,
    topic: &str,
    letters: &[&DeadLetter],
) -> Result<()> {
    let all =
        || letters.iter().flat_map(|letter| letter.refused_by.iter().map(move |r| (letter, r)));
    let outputs: Vec<_> = all().map(|(_, (output, _))| output.to_string()).collect();
    let partitions: Vec<_> = all().map(|(letter, _)| letter.partition.0).collect();
    let offsets: Vec<_> = all().map(|(letter, _)| letter.offset).collect();
    let of: Vec<_> = all().map(|(letter, _)| letter.output.to_string()).collect();
    let times: Vec<_> = all().map(|(_, (_, time))| time.map(|t| Instant(t.0))).collect();
    let sql = include_str!("../../sql/warehouse/insert_refusals.sql");
    session.execute(doing, sql, &[&topic, &outputs, &partitions, &offsets, &of, &times]).await?;
    Ok(())
}

/// PostgreSQL's text holds no NUL, and a reason may quote a record that does.
pub(super) fn printable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Kafka's headers are bytes that mostly are text: readable where they are, exact where not.
fn headers(headers: &[(String, Option<Bytes>)]) -> Value {
    let one = |(name, value): &(String, Option<Bytes>)| {
        let name = printable(name);
        match value.as_deref().map(|value| (value, std::str::from_utf8(value))) {
            None => json!({ "name": name, "value": null }),
            Some((_, Ok(text))) if !text.contains('\0') => json!({ "name": name, "value": text }),
            Some((value, _)) => json!({ "name": name, "value_base64": BASE64.encode(value) }),
        }
    };
    headers.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_text_where_they_can_be() {
        let bytes = |b: &'static [u8]| Some(Bytes::from_static(b));
        let given = [("a".into(), bytes(b"x")), ("b".into(), bytes(b"\0")), ("c\0".into(), None)];
        assert_eq!(
            headers(&given).to_string(),
            "[{\"name\":\"a\",\"value\":\"x\"},{\"name\":\"b\",\"value_base64\":\"AA==\"},\
             {\"name\":\"c\u{fffd}\",\"value\":null}]"
        );
    }
}
