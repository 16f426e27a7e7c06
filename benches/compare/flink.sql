-- The job in Flink SQL: one read of the topic, two sinks, exactly-once checkpoints.
--
-- Late taps: a window drops what comes after it closed, so the watermark waits for the disorder and
-- for the latest tap, and a group reaches PostgreSQL once, when it is final. The topic is read to
-- the offsets that it ends at when the job starts; then all windows close and the job ends, with a
-- last checkpoint that makes the last files visible.

SET 'parallelism.default' = '2';
SET 'execution.checkpointing.mode' = 'EXACTLY_ONCE';
-- A file ends with each checkpoint: as often as highwater ends its own (`roll.age`).
SET 'execution.checkpointing.interval' = '60s';
SET 'execution.checkpointing.dir' = 'file://${COMPARE_WORK}/checkpoints';
SET 'rest.bind-address' = '127.0.0.1';
SET 'pipeline.object-reuse' = 'true';
SET 'table.local-time-zone' = 'UTC';

CREATE TABLE taps (
    tapId STRING,
    tokenId STRING,
    stopId STRING,
    deviceId STRING,
    eventTime TIMESTAMP_LTZ(3),
    `mode` STRING,
    fareCents BIGINT,
    kafkaPartition INT METADATA FROM 'partition' VIRTUAL,
    kafkaOffset BIGINT METADATA FROM 'offset' VIRTUAL,
    kafkaTimestamp TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
    WATERMARK FOR eventTime AS eventTime - INTERVAL '31:30' MINUTE TO SECOND
) WITH (
    'connector' = 'kafka',
    'topic' = '${COMPARE_TOPIC}',
    'properties.bootstrap.servers' = '${COMPARE_BROKERS}',
    'properties.group.id' = 'flink',
    'properties.register.consumer.metrics' = 'false',
    'scan.startup.mode' = 'earliest-offset',
    'scan.bounded.mode' = 'latest-offset',
    'format' = 'json',
    'json.timestamp-format.standard' = 'ISO-8601'
);

CREATE TABLE lake (
    tap_id STRING,
    token_id STRING,
    stop_id STRING,
    device_id STRING,
    event_time TIMESTAMP_LTZ(3),
    `mode` STRING,
    fare_cents BIGINT,
    _partition INT,
    _offset BIGINT,
    _timestamp TIMESTAMP_LTZ(3),
    `date` STRING,
    `hour` STRING
) PARTITIONED BY (`date`, `hour`) WITH (
    'connector' = 'filesystem',
    'path' = 'file://${COMPARE_LAKE}',
    'format' = 'parquet',
    'parquet.compression' = 'ZSTD',
    'parquet.compression.codec.zstd.level' = '1',
    'parquet.write.int64.timestamp' = 'true',
    'parquet.utc-timezone' = 'true',
    'sink.rolling-policy.file-size' = '128MB'
);

CREATE TABLE taps_by_stop_5m (
    window_start TIMESTAMP(3),
    stop_id STRING,
    `mode` STRING,
    taps BIGINT,
    fare_cents BIGINT,
    fare_cents_min BIGINT,
    fare_cents_max BIGINT,
    PRIMARY KEY (window_start, stop_id, `mode`) NOT ENFORCED
) WITH (
    'connector' = 'jdbc',
    'url' = '${COMPARE_JDBC}&reWriteBatchedInserts=true',
    'table-name' = 'taps_by_stop_5m',
    'sink.buffer-flush.max-rows' = '5000',
    'sink.buffer-flush.interval' = '1s'
);

EXECUTE STATEMENT SET BEGIN
INSERT INTO lake
SELECT tapId, tokenId, stopId, deviceId, eventTime, `mode`, fareCents,
       kafkaPartition, kafkaOffset, kafkaTimestamp,
       DATE_FORMAT(eventTime, 'yyyy-MM-dd'), DATE_FORMAT(eventTime, 'HH')
FROM taps;
INSERT INTO taps_by_stop_5m
SELECT CAST(window_start AS TIMESTAMP(3)), stopId, `mode`,
       COUNT(*), SUM(fareCents), MIN(fareCents), MAX(fareCents)
FROM TUMBLE(TABLE taps, DESCRIPTOR(eventTime), INTERVAL '5' MINUTES)
GROUP BY window_start, window_end, stopId, `mode`;
END;
