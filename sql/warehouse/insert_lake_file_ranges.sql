-- I-3: rows per partition, to be summed against marks.accepted.
INSERT INTO highwater.lake_file_ranges (path, topic, partition, from_offset, to_offset, rows)
SELECT $1, $2, r.partition, r.from_offset, r.to_offset, r.rows
FROM unnest($3::integer[], $4::bigint[], $5::bigint[], $6::bigint[]) AS r (partition, from_offset, to_offset, rows)
