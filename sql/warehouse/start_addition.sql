-- X-3: no output has taken a record from here on: all of them decode it by the addition. Runs while the marks are
-- locked (`lock_all_marks`).
INSERT INTO highwater.added_column_starts (topic, number, partition, since)
SELECT $1, $2, partition, max(next_offset) FROM highwater.marks WHERE topic = $1 GROUP BY partition
