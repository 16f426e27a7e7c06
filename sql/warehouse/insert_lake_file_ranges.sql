-- I-3: rows per partition and generation; without extra_rows to be summed against marks.accepted. The mark is locked by the cut.
INSERT INTO highwater.lake_file_ranges (path, topic, partition, from_offset, to_offset, rows, extra_rows,
                                        generation)
SELECT $1, $2, r.partition, r.from_offset, r.to_offset, r.rows, r.extra_rows, m.generation
FROM unnest($3::integer[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
     AS r (partition, from_offset, to_offset, rows, extra_rows)
JOIN highwater.marks m ON m.topic = $2 AND m.output = 'lake' AND m.partition = r.partition
