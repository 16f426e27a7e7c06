"""The job as a script of one's own: confluent-kafka, polars, psycopg.

Exactly once: a batch's groups and the offsets behind it are one transaction in PostgreSQL, and
Kafka's group offsets are not used. Files have the batch's number in their names and are written
before that transaction; a process that starts removes those of a batch that was not committed. So
who lists the lake while a batch is written may see files of it, which is the one promise of less
than highwater's. One process has all partitions. A record that is not JSON ends the script before
its batch is committed.
"""

import os
import time
from pathlib import Path

import polars as pl
import psycopg
from confluent_kafka import Consumer, TopicPartition

RECORDS_PER_BATCH = 500_000
SECONDS_PER_BATCH = 5
# The most that confluent-kafka gives at a time.
MESSAGES_PER_CALL = 100_000

FIELDS = {
    "tapId": pl.String,
    "tokenId": pl.String,
    "stopId": pl.String,
    "deviceId": pl.String,
    "eventTime": pl.String,
    "mode": pl.String,
    "fareCents": pl.Int64,
}

SCHEMA = """
CREATE TABLE IF NOT EXISTS taps_by_stop_5m (
    window_start timestamptz, stop_id text, mode text,
    taps bigint NOT NULL, fare_cents bigint, fare_cents_min bigint, fare_cents_max bigint,
    PRIMARY KEY (window_start, stop_id, mode));
CREATE TABLE IF NOT EXISTS batches (number bigint NOT NULL);
CREATE TABLE IF NOT EXISTS offsets (kafka_partition int PRIMARY KEY, next_offset bigint NOT NULL);
CREATE TEMPORARY TABLE delta (LIKE taps_by_stop_5m) ON COMMIT DELETE ROWS;
"""

# Of NULLs, LEAST and GREATEST take the other; of two sums, one that is there is the sum.
MERGE = """
INSERT INTO taps_by_stop_5m AS t SELECT * FROM delta
ON CONFLICT (window_start, stop_id, mode) DO UPDATE SET
    taps = t.taps + excluded.taps,
    fare_cents = coalesce(t.fare_cents + excluded.fare_cents, t.fare_cents, excluded.fare_cents),
    fare_cents_min = least(t.fare_cents_min, excluded.fare_cents_min),
    fare_cents_max = greatest(t.fare_cents_max, excluded.fare_cents_max)
"""

MOVE = """
INSERT INTO offsets VALUES (%s, %s)
ON CONFLICT (kafka_partition) DO UPDATE SET next_offset = excluded.next_offset
"""


def behind(positions, ends):
    return any(positions[partition] < end for partition, end in ends.items())


def read_batch(consumer, positions, ends):
    """Values, partitions, offsets and timestamps of at most a batch; moves the positions."""
    values, partitions, offsets, timestamps = [], [], [], []
    deadline = time.monotonic() + SECONDS_PER_BATCH
    while len(values) < RECORDS_PER_BATCH and time.monotonic() < deadline:
        wanted = min(MESSAGES_PER_CALL, RECORDS_PER_BATCH - len(values))
        for message in consumer.consume(wanted, timeout=0.1):
            if message.error():
                raise RuntimeError(message.error())
            values.append(message.value())
            partitions.append(message.partition())
            offsets.append(message.offset())
            timestamps.append(message.timestamp()[1])
            positions[message.partition()] = message.offset() + 1
        if not behind(positions, ends):
            break
    return values, partitions, offsets, timestamps


def decode(values, partitions, offsets, timestamps):
    rows = pl.read_ndjson(b"\n".join(values), schema=FIELDS)
    if len(rows) != len(values):
        raise ValueError(f"{len(values)} records are {len(rows)} rows")
    event_time = pl.col("eventTime").str.to_datetime(
        "%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us", time_zone="UTC"
    )
    return rows.select(
        tap_id="tapId",
        token_id="tokenId",
        stop_id="stopId",
        device_id="deviceId",
        event_time=event_time,
        mode="mode",
        fare_cents="fareCents",
        _partition=pl.Series(partitions, dtype=pl.Int32),
        _offset=pl.Series(offsets, dtype=pl.Int64),
        _timestamp=pl.Series(timestamps, dtype=pl.Int64).cast(pl.Datetime("ms", "UTC")),
    )


def write_files(lake, number, rows):
    hour = pl.col("event_time").dt.truncate("1h").alias("_hour")
    for (begin,), part in rows.with_columns(hour).partition_by("_hour", as_dict=True).items():
        folder = lake / begin.strftime("date=%Y-%m-%d/hour=%H")
        folder.mkdir(parents=True, exist_ok=True)
        part.drop("_hour").write_parquet(
            folder / f"batch-{number}.parquet", compression="zstd", compression_level=1
        )


def remove_uncommitted(lake, number):
    for path in lake.glob("date=*/hour=*/batch-*.parquet"):
        if int(path.stem.removeprefix("batch-")) >= number:
            path.unlink()


def aggregate(rows):
    fare = pl.col("fare_cents")
    # The sum of no number is NULL, as SQL has it.
    fare_sum = pl.when(fare.count() > 0).then(fare.sum())
    return rows.group_by(
        pl.col("event_time").dt.truncate("5m").alias("window_start"), "stop_id", "mode"
    ).agg(
        taps=pl.len(),
        fare_cents=fare_sum,
        fare_cents_min=fare.min(),
        fare_cents_max=fare.max(),
    )


def commit(db, groups, number, positions):
    with db.transaction(), db.cursor() as cursor:
        with cursor.copy("COPY delta FROM STDIN (FORMAT csv)") as copy:
            copy.write(groups.write_csv(include_header=False))
        cursor.execute(MERGE)
        cursor.executemany(MOVE, list(positions.items()))
        cursor.execute("UPDATE batches SET number = %s", (number,))


def main():
    topic, lake = os.environ["COMPARE_TOPIC"], Path(os.environ["COMPARE_LAKE"])
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ["COMPARE_BROKERS"],
            "group.id": "script",
            "enable.auto.commit": False,
            # Offsets that are gone end the script; nothing is skipped.
            "auto.offset.reset": "error",
            "queued.min.messages": 500_000,
        }
    )
    with psycopg.connect(os.environ["COMPARE_DATABASE"], autocommit=True) as db:
        db.execute(SCHEMA)
        db.execute("INSERT INTO batches SELECT 0 WHERE NOT EXISTS (SELECT FROM batches)")
        number = db.execute("SELECT number FROM batches").fetchone()[0] + 1
        stored = dict(db.execute("SELECT kafka_partition, next_offset FROM offsets").fetchall())
        remove_uncommitted(lake, number)
        partitions = consumer.list_topics(topic).topics[topic].partitions
        positions, ends = {}, {}
        for partition in partitions:
            where = TopicPartition(topic, partition)
            low, ends[partition] = consumer.get_watermark_offsets(where)
            positions[partition] = stored.get(partition, low)
        consumer.assign([TopicPartition(topic, p, at) for p, at in positions.items()])
        while behind(positions, ends):
            batch = read_batch(consumer, positions, ends)
            if not batch[0]:
                continue
            rows = decode(*batch)
            write_files(lake, number, rows)
            commit(db, aggregate(rows), number, positions)
            number += 1
    consumer.close()


main()
