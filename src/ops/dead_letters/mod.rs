//! `highwater dead-letters`: what was refused and why, and (in `retry`) taking it after all.
//!
//! Owns: what an operator sees of the letters. Does not own: which there are (`warehouse`).

pub mod retry;

use super::{run::runtime, table};
use crate::{
    config::Config,
    error::{Error, Result},
    record::{EventTime, Partition},
    warehouse::{
        DeadLetterCount, DeadLetterFilter, RefusalRow, StoredDeadLetter, Warehouse,
        WarehouseSettings,
    },
};
use serde_json::{Value, json};
use std::{fmt, future::Future, str::FromStr};

/// Of a reason, in a table.
const REASON_CHARS: usize = 70;

/// Which letters.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Filter {
    /// Only letters of this output: dead_letters (refused by decode) or model:NAME.
    #[arg(long, value_name = "OUTPUT")]
    pub output: Option<String>,
    /// Only this class: malformed, missing, type, range, future, model.
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
}

/// A record, as `list` prints it: `taps/3@120`, with the topic file's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub topic: String,
    pub partition: Partition,
    pub offset: i64,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once('@').and_then(|(log, offset)| {
            let (topic, partition) = log.rsplit_once('/')?;
            let partition = partition.parse().ok().filter(|p| *p >= 0)?;
            let offset = offset.parse().ok().filter(|o| *o >= 0)?;
            Some(Self { topic: topic.to_owned(), partition: Partition(partition), offset })
        });
        parts.ok_or_else(|| {
            format!("{text:?} is no place. Allowed: TOPIC/PARTITION@OFFSET, such as taps/3@120")
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition.0, self.offset)
    }
}

async fn connect(config: &Config) -> Result<Warehouse> {
    let settings =
        WarehouseSettings { ca_file: config.warehouse_ca.clone(), ..WarehouseSettings::default() };
    let warehouse = Warehouse::connect(config.warehouse()?, &settings).await?;
    warehouse.migrate().await?;
    Ok(warehouse)
}

/// Reads, and ends the connections in good order.
fn read<T, F: Future<Output = Result<T>>>(
    config: &Config,
    work: impl FnOnce(Warehouse) -> F,
) -> Result<T> {
    runtime()?.block_on(async {
        let warehouse = connect(config).await?;
        let answer = work(warehouse.clone()).await;
        warehouse.close().await;
        answer
    })
}

/// Prints the newest letters, then how many there are of which kind.
pub fn list(config: &Config, filter: &Filter, limit: u32, json: bool) -> Result<()> {
    let filter = DeadLetterFilter {
        topics: (!config.only.is_empty()).then(|| config.only.clone()),
        output: filter.output.clone(),
        class: filter.class.clone(),
    };
    let (letters, counts) = read(config, |warehouse| async move {
        let letters = warehouse.dead_letters(&filter, limit).await?;
        Ok((letters, warehouse.dead_letter_counts(&filter).await?))
    })?;
    match json {
        true => {
            let letters: Vec<Value> = letters.iter().map(letter_json).collect();
            let counts: Vec<Value> = counts.iter().map(count_json).collect();
            print_json(&json!({ "letters": letters, "counts": counts }));
        }
        false => print!("{}", render(&letters, &counts)),
    }
    Ok(())
}

fn print_json(value: &Value) {
    println!("{}", serde_json::to_string_pretty(value).expect("texts and numbers"));
}

fn place_of(letter: &StoredDeadLetter) -> Place {
    let topic = letter.topic.to_string();
    Place { topic, partition: letter.partition, offset: letter.offset }
}

fn render(letters: &[StoredDeadLetter], counts: &[DeadLetterCount]) -> String {
    if counts.is_empty() {
        return "no dead letters\n".to_owned();
    }
    let head = ["record", "output", "class", "column", "reason", "stored"];
    let row = |letter: &StoredDeadLetter| {
        vec![
            place_of(letter).to_string(),
            letter.output.to_string(),
            letter.class.clone(),
            letter.column.clone().unwrap_or_default(),
            shortened(&letter.reason),
            time(letter.stored_at),
        ]
    };
    let mut text = table::render(&head, &letters.iter().map(row).collect::<Vec<_>>());
    let total: u64 = counts.iter().map(|count| count.count).sum();
    if (letters.len() as u64) < total {
        text.push_str(&format!("the newest {} of {total}\n", letters.len()));
    }
    text.push('\n');
    let row = |count: &DeadLetterCount| {
        vec![
            count.topic.to_string(),
            count.output.to_string(),
            count.class.clone(),
            count.count.to_string(),
            time(count.last_stored_at),
        ]
    };
    let head = ["topic", "output", "class", "letters", "last stored"];
    text.push_str(&table::render(&head, &counts.iter().map(row).collect::<Vec<_>>()));
    text
}

/// One line of at most so many characters.
fn shortened(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.chars().count() > REASON_CHARS {
        true => line.chars().take(REASON_CHARS - 1).chain(['…']).collect(),
        false => line,
    }
}

fn time(us: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(us);
    time.map_or(String::new(), |t| t.format("%Y-%m-%d %H:%M:%SZ").to_string())
}

fn count_json(count: &DeadLetterCount) -> Value {
    json!({
        "topic": &*count.topic,
        "output": count.output.to_string(),
        "class": count.class,
        "letters": count.count,
        "last_stored_at_us": count.last_stored_at,
    })
}

/// Bytes are text where they are UTF-8, else base64 under another name.
fn letter_json(letter: &StoredDeadLetter) -> Value {
    use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
    let mut object = json!({
        "topic": &*letter.topic,
        "partition": letter.partition.0,
        "offset": letter.offset,
        "output": letter.output.to_string(),
        "class": letter.class,
        "column": letter.column,
        "reason": letter.reason,
        "timestamp_us": letter.timestamp.0,
        "stored_at_us": letter.stored_at,
        "forwarded_at_us": letter.forwarded_at,
        "generation": letter.generation,
        "raw_kept": letter.raw,
    });
    if letter.raw {
        for (name, bytes) in [("key", &letter.key), ("value", &letter.value)] {
            match bytes.as_deref().map(|bytes| (bytes, std::str::from_utf8(bytes))) {
                None => object[name] = Value::Null,
                Some((_, Ok(text))) => object[name] = text.into(),
                Some((bytes, Err(_))) => {
                    object[format!("{name}_base64")] = BASE64.encode(bytes).into();
                }
            }
        }
        object["headers"] = serde_json::from_str(&letter.headers).unwrap_or_default();
    }
    object
}

/// Prints everything of one record.
pub fn show(config: &Config, place: &Place, json: bool) -> Result<()> {
    let (letters, refusals) = read(config, |warehouse| async move {
        warehouse.dead_letters_at(&place.topic, place.partition, place.offset).await
    })?;
    if letters.is_empty() && refusals.is_empty() {
        return Err(Error::halt(format!(
            "{place} is no dead letter: `highwater dead-letters list` shows which there are"
        )));
    }
    if json {
        let letters: Vec<Value> = letters.iter().map(letter_json).collect();
        let refusals: Vec<Value> = refusals.iter().map(refusal_json).collect();
        print_json(&json!({ "letters": letters, "refused_by": refusals }));
        return Ok(());
    }
    for letter in &letters {
        print!("{}", letter_text(letter));
    }
    for refusal in &refusals {
        println!("{}", refusal_text(refusal));
    }
    Ok(())
}

fn refusal_json(refusal: &RefusalRow) -> Value {
    json!({
        "output": refusal.output.to_string(),
        "letter": refusal.letter.to_string(),
        "event_time_max_us": refusal.event_time_max.map(|t| t.0),
        "retried_at_us": refusal.retried_at,
        "generation": refusal.generation,
    })
}

fn refusal_text(refusal: &RefusalRow) -> String {
    let output = match refusal.generation {
        1 => refusal.output.to_string(),
        generation => format!("{}, generation {generation},", refusal.output),
    };
    match (refusal.retried_at, refusal.event_time_max) {
        (Some(at), _) => format!("{output} took it by a retry at {}", time(at)),
        (None, Some(EventTime(max))) => {
            format!("{output} refuses it; newest event before it {}", time(max))
        }
        (None, None) => format!("{output} refuses it"),
    }
}

fn letter_text(letter: &StoredDeadLetter) -> String {
    let mut text = format!("{} refused as {}", place_of(letter), letter.output);
    let mut line = |name: &str, value: &str| text.push_str(&format!("\n  {name:<10} {value}"));
    if letter.generation > 1 {
        line("generation", &letter.generation.to_string());
    }
    line("class", &letter.class);
    if let Some(column) = &letter.column {
        line("column", column);
    }
    line("reason", &letter.reason);
    line("timestamp", &time(letter.timestamp.0));
    line("stored", &time(letter.stored_at));
    if let Some(at) = letter.forwarded_at {
        line("forwarded", &time(at));
    }
    match letter.raw {
        true => {
            line("key", &bytes_text(letter.key.as_deref()));
            line("value", &bytes_text(letter.value.as_deref()));
            line("headers", &letter.headers);
        }
        false => line("record", "not kept (dead_letters.keep_raw); Kafka may have it"),
    }
    text.push('\n');
    text
}

/// Text as it is, other bytes in hexadecimal.
fn bytes_text(bytes: Option<&[u8]>) -> String {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => "(null)".to_owned(),
        Some((_, Ok(text)))
            if !text.contains(|c: char| c.is_control() && c != '\n' && c != '\t') =>
        {
            text.to_owned()
        }
        Some((bytes, _)) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("\\x{hex}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_as_it_is_printed() {
        let place = Place { topic: "taps".into(), partition: Partition(3), offset: 120 };
        assert_eq!(place.to_string().parse(), Ok(place));
        for wrong in ["taps", "taps/3", "taps@3", "taps/x@1", "taps/-1@1", "taps/1@-1", ""] {
            assert!(wrong.parse::<Place>().unwrap_err().contains("taps/3@120"), "{wrong}");
        }
    }

    #[test]
    fn bytes_are_text_or_hexadecimal() {
        assert_eq!(bytes_text(None), "(null)");
        assert_eq!(bytes_text(Some("Bär".as_bytes())), "Bär");
        assert_eq!(bytes_text(Some(&[0xff, 0x00])), "\\xff00");
        assert_eq!(bytes_text(Some(&[b'a', 0x1b])), "\\x611b");
    }
}
