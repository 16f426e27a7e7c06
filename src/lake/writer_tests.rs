//! The writer against what went in: read back, row by row, with the readers of the same crate.

use super::*;
use crate::lake::fixture;
use crate::record::Epoch;
use arrow::array::{
    ArrayRef, BinaryArray, Decimal128Array, Int32Array, StringArray, TimestampMicrosecondArray,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

const HOUR_US: i64 = 3_600_000_000;

fn name() -> FileName {
    FileName {
        sequence: 7,
        partition: Partition(0),
        from: Offset(0),
        epoch: Epoch(2),
        origin: super::super::layout::Origin::Cut,
    }
}

fn settings() -> WriterSettings {
    WriterSettings { part_bytes: 64 << 10, row_group_bytes: 256 << 10, ..Default::default() }
}

/// Rows at the given times; all other values follow from the offset.
fn batch(topic: &Topic, partition: i32, offsets: &[i64], times: &[i64]) -> RecordBatch {
    let at = TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC");
    let stop: StringArray =
        offsets.iter().map(|o| (o % 7 != 0).then(|| format!("stop-{}", o * 7919 % 500))).collect();
    let fare: Int32Array =
        offsets.iter().map(|o| (o % 3 != 0).then_some((o % 300) as i32)).collect();
    let price: Decimal128Array = offsets.iter().map(|o| Some(i128::from(*o) * 101)).collect();
    let price = price.with_precision_and_scale(20, 2).unwrap();
    let photo: Vec<_> = offsets.iter().map(|o| Sha256::digest(o.to_be_bytes())).collect();
    let photo: BinaryArray = photo.iter().map(|sha| Some(sha.as_slice())).collect();
    let columns: [(&str, ArrayRef); 5] = [
        ("at", Arc::new(at)),
        ("stop", Arc::new(stop)),
        ("fare", Arc::new(fare)),
        ("price", Arc::new(price)),
        ("photo", Arc::new(photo)),
    ];
    fixture::rows_at(topic, &columns, partition, offsets)
}

fn append(writer: &mut LakeWriter, partition: i32, offsets: &[i64], times: &[i64]) -> RecordBatch {
    let rows = batch(&writer.topic.clone(), partition, offsets, times);
    let times: Vec<_> = times.iter().map(|at| EventTime(*at)).collect();
    writer.append(&rows, &times).unwrap();
    rows
}

fn whole(parts: &[Part], finished: &Finished) -> Bytes {
    let mut bytes: Vec<u8> = Vec::new();
    parts.iter().filter(|part| part.file == finished.file).for_each(|p| bytes.extend(&p.bytes));
    bytes.extend(finished.last.iter().flatten());
    bytes.into()
}

fn read(bytes: Bytes) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
    reader.map(|rows| rows.unwrap()).collect()
}

#[test]
fn rows_of_many_hours_read_back_equal_and_in_order() {
    let topic = fixture::topic(&["date(at)", "hour(at)"], chrono_tz::Europe::London);
    let mut writer = LakeWriter::new(topic.clone(), settings(), name());
    let mut expected: BTreeMap<i64, Vec<RecordBatch>> = BTreeMap::new();
    let mut parts = Vec::new();
    let mut next = 0;
    // Batches of one hour, of several, large and tiny, in a mixture that stages and gathers.
    for round in 0..120_i64 {
        let len = [1, 5000, 37, 900][round as usize % 4];
        let hours = [1, 3, 2, 1, 1][round as usize % 5];
        let offsets: Vec<i64> = (next..next + len).collect();
        let times: Vec<i64> = offsets.iter().map(|o| (o % hours) * HOUR_US + o).collect();
        next += len + 3;
        let rows = append(&mut writer, 0, &offsets, &times);
        for (i, at) in times.iter().enumerate() {
            expected.entry(at / HOUR_US).or_default().push(rows.slice(i, 1));
        }
        parts.extend(writer.take_parts());
    }
    let finished = writer.finish().unwrap();
    assert_eq!(finished.len(), expected.len());
    for (file, (hour, rows)) in finished.iter().zip(expected) {
        let path = format!("taps/date=1970-01-01/hour={:02}/{}", hour + 1, name().file());
        assert_eq!(file.path, path, "London was an hour ahead in 1970");
        let expected = concat_batches(&topic.schema, &rows).unwrap();
        let bytes = whole(&parts, file);
        assert_eq!(file.bytes, bytes.len() as u64);
        assert_eq!(file.checksum, crate::lake::layout::hex(&Sha256::digest(&bytes)));
        let found = concat_batches(&topic.schema, &read(bytes)).unwrap();
        assert_eq!(found, expected);
        assert_eq!(file.rows, expected.num_rows() as u64);
    }
}

#[test]
fn ranges_and_times_are_those_of_the_files_rows() {
    let topic = fixture::topic(&["hour(at)"], chrono_tz::UTC);
    let mut writer = LakeWriter::new(topic, settings(), name());
    append(&mut writer, 3, &[120, 121, 125], &[5, HOUR_US, 1]);
    append(&mut writer, 0, &[8, 9], &[HOUR_US + 4, HOUR_US + 2]);
    append(&mut writer, 3, &[126], &[9]);
    let finished = writer.finish().unwrap();
    let range = |partition, from, to, rows| FileRange {
        partition: Partition(partition),
        span: Span::new(Offset(from), Offset(to)),
        rows,
        extra_rows: 0,
    };
    assert_eq!(finished[0].ranges, [range(3, 120, 127, 3)]);
    assert_eq!(finished[1].ranges, [range(0, 8, 10, 2), range(3, 121, 122, 1)]);
    let times = |file: &Finished| (file.event_time_min.0, file.event_time_max.0);
    assert_eq!(times(&finished[0]), (1, 9));
    assert_eq!(times(&finished[1]), (HOUR_US, HOUR_US + 4));
}

#[test]
fn a_file_explains_itself_in_its_footer() {
    let topic = fixture::topic(&["hour(at)"], chrono_tz::UTC);
    let mut writer = LakeWriter::new(topic.clone(), settings(), name());
    append(&mut writer, 3, &[120, 125], &[5, 1]);
    let file = writer.finish().unwrap().remove(0);
    let bytes = file.last.clone().unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    assert_eq!(reader.schema().fields(), topic.schema.fields());
    let metadata = reader.metadata().file_metadata().key_value_metadata().unwrap();
    let found: BTreeMap<_, _> = metadata
        .iter()
        .map(|entry| (entry.key.as_str(), entry.value.as_deref().unwrap()))
        .collect();
    let ranges = r#"[{"from":120,"partition":3,"rows":2,"to":126}]"#;
    for (key, value) in [
        ("highwater.topic", "taps"),
        ("highwater.rows", "2"),
        ("highwater.ranges", ranges),
        ("highwater.event_time_min", "1"),
        ("highwater.event_time_max", "5"),
        ("highwater.schema", file.schema.as_str()),
        ("highwater.sequence", "7"),
        ("highwater.version", env!("CARGO_PKG_VERSION")),
    ] {
        let same = found[key] == value
            || serde_json::from_str::<serde_json::Value>(found[key]).ok()
                == serde_json::from_str(value).ok();
        assert!(same, "{key}: {}", found[key]);
    }
}

#[test]
fn every_part_but_the_last_has_the_part_size_also_when_none_was_taken() {
    let topic = fixture::topic(&[], chrono_tz::UTC);
    for take in [true, false] {
        let mut writer = LakeWriter::new(topic.clone(), settings(), name());
        for round in 0..30_i64 {
            let offsets: Vec<i64> = (round * 5000..(round + 1) * 5000).collect();
            append(&mut writer, 0, &offsets, &offsets);
        }
        let mut parts = if take { writer.take_parts() } else { Vec::new() };
        writer.close().unwrap();
        if take {
            parts.extend(writer.take_parts());
        }
        let file = writer.finish().unwrap().remove(0);
        assert_eq!(parts.is_empty(), !take);
        assert!(parts.iter().all(|part| part.bytes.len() == settings().part_bytes));
        if take {
            assert!(file.last.iter().all(|last| last.len() < settings().part_bytes));
        }
        let bytes = whole(&parts, &file);
        assert_eq!(bytes.len() as u64, file.bytes);
        assert_eq!(read(bytes).iter().map(RecordBatch::num_rows).sum::<usize>(), 150_000);
    }
}

#[test]
fn memory_stays_flat_however_large_the_file() {
    let topic = fixture::topic(&["hour(at)"], chrono_tz::UTC);
    let settings =
        WriterSettings { part_bytes: 256 << 10, row_group_bytes: 1 << 20, ..Default::default() };
    let mut writer = LakeWriter::new(topic, settings, name());
    let (mut left, mut most) = (0, [0, 0]);
    for round in 0..200_i64 {
        let offsets: Vec<i64> = (round * 2000..(round + 1) * 2000).collect();
        let times: Vec<i64> = offsets.iter().map(|o| (o % 2) * HOUR_US).collect();
        append(&mut writer, 0, &offsets, &times);
        left += writer.take_parts().iter().map(|part| part.bytes.len()).sum::<usize>();
        let half = usize::from(round >= 100);
        most[half] = writer.memory().max(most[half]);
    }
    assert!(left > 10 << 20, "the stream was too small to tell, left={left}");
    assert!(most[1] < 24 << 20 && most[1] < most[0] * 11 / 10, "memory grew, most={most:?}");
    assert!(writer.largest_file_bytes() > 5 << 20);
}

#[test]
fn a_thousand_open_files_are_small_and_end_the_cut() {
    let topic = fixture::topic(&["date(at)", "hour(at)"], chrono_tz::UTC);
    let settings = WriterSettings { open_files_max: 1000, ..Default::default() };
    let mut writer = LakeWriter::new(topic, settings, name());
    for round in 0..40_i64 {
        let offsets: Vec<i64> = (round * 1000..(round + 1) * 1000).collect();
        let times: Vec<i64> = offsets.iter().map(|o| (o % 1000) * HOUR_US).collect();
        append(&mut writer, 0, &offsets, &times);
    }
    assert_eq!(writer.open_files(), 1000);
    assert!(writer.should_end());
    assert!(writer.memory() < 32 << 20, "{}", writer.memory());
    let finished = writer.finish().unwrap();
    assert!(finished.iter().all(|file| file.rows == 40 && file.last.is_some()));
}

#[test]
fn offsets_that_go_backwards_are_refused() {
    let topic = fixture::topic(&[], chrono_tz::UTC);
    let mut writer = LakeWriter::new(topic.clone(), settings(), name());
    append(&mut writer, 0, &[5, 6], &[0, 0]);
    let error = writer.append(&batch(&topic, 0, &[6], &[0]), &[EventTime(0)]).unwrap_err();
    assert_eq!(error.kind, crate::error::Kind::Halt);
    assert!(error.to_string().contains("W-2"), "{error}");
}

#[test]
fn each_value_of_a_level_has_a_file_and_what_no_row_has_has_none() {
    for by in [&["stop"][..], &["fare"], &["fare", "stop"], &["date(at)", "stop"]] {
        // Every seventh stop and every third fare is NULL.
        for offsets in [vec![1, 2, 4, 5], vec![1, 2, 3, 4], vec![7, 8], vec![21]] {
            let topic = fixture::topic(by, chrono_tz::UTC);
            let mut writer = LakeWriter::new(topic, settings(), name());
            let rows = append(&mut writer, 0, &offsets, &offsets);
            let finished = writer.finish().unwrap();
            assert_eq!(finished.iter().map(|file| file.rows).sum::<u64>(), offsets.len() as u64);
            let null = |name: &str| rows.column_by_name(name).unwrap().null_count() > 0;
            let folder = |file: &Finished| file.path.contains("__HIVE_DEFAULT_PARTITION__");
            let levels = by.iter().any(|name| !name.starts_with("date") && null(name));
            assert_eq!(finished.iter().any(folder), levels, "{by:?} {offsets:?}");
        }
    }
}

#[test]
fn memory_of_many_small_files_is_counted_with_what_pieces_cost() {
    let topic = fixture::topic(&["stop"], chrono_tz::UTC);
    let mut writer = LakeWriter::new(topic, settings(), name());
    let mut counted = Vec::new();
    for round in 0..200_i64 {
        let offsets: Vec<i64> = (round * 1000..(round + 1) * 1000).collect();
        append(&mut writer, 0, &offsets, &vec![0; 1000]);
        counted.push((writer.staged_rows, writer.memory()));
    }
    let dealt = counted.iter().position(|(staged, _)| *staged == 0).unwrap();
    let (before, after) = (counted[dealt - 1].1, counted[dealt].1);
    let pieces = writer.files.len() * 8 * PIECE_BYTES;
    assert!(after > before / 2 + pieces / 2, "{before} bytes staged, {after} in pieces");
}

#[test]
fn a_cut_without_rows_has_no_files() {
    let topic = fixture::topic(&[], chrono_tz::UTC);
    let mut writer = LakeWriter::new(topic.clone(), settings(), name());
    writer.append(&batch(&topic, 0, &[], &[]), &[]).unwrap();
    assert!(writer.finish().unwrap().is_empty());
}

#[test]
fn columns_that_repeat_get_a_dictionary_and_unique_ones_do_not() {
    let topic = fixture::topic(&[], chrono_tz::UTC);
    let mut writer = LakeWriter::new(topic, settings(), name());
    let offsets: Vec<i64> = (0..20_000).collect();
    append(&mut writer, 0, &offsets, &offsets);
    writer.take_parts();
    let mut writer_bytes = Vec::new();
    let file = writer.finish().unwrap().remove(0);
    writer_bytes.extend(file.last.iter().flatten());
    // The footer alone tells; the parts before it were dropped.
    let metadata = parquet::file::metadata::ParquetMetaDataReader::decode_metadata(
        &writer_bytes[footer(&writer_bytes)],
    )
    .unwrap();
    let with: Vec<_> = metadata
        .row_group(0)
        .columns()
        .iter()
        .filter(|column| column.dictionary_page_offset().is_some())
        .map(|column| column.column_path().string())
        .collect();
    // Parquet 1.0 has no dictionary for decimals of this width.
    assert_eq!(with, ["stop", "fare", "_partition"]);
}

fn footer(bytes: &[u8]) -> std::ops::Range<usize> {
    let end = bytes.len() - 8;
    let length = u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap());
    end - length as usize..end
}
