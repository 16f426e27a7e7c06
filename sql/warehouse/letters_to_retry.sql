-- A page of letters after a place, in order, with the outputs that count the record as dead. A page ends at so many
-- letters or bytes, but has one. Letters that came after the beginning, those that the retry writes among them, wait
-- for another. Of a generation that is over nothing is retried: its totals are closed (G-2).
WITH page AS (
    SELECT d.partition, d."offset", d.output, d.generation,
           row_number() OVER w AS number,
           sum(coalesce(octet_length(d.key), 0) + coalesce(octet_length(d.value), 0)) OVER w AS bytes
    FROM highwater.dead_letters d
    JOIN highwater.marks m ON m.topic = d.topic AND m.output = 'dead_letters' AND m.partition = d.partition
                          AND m.generation = d.generation
    WHERE d.topic = $1 AND ($2::text IS NULL OR d.output = $2) AND ($3::text IS NULL OR d.class = $3)
      AND ($4::integer[] IS NULL
           OR (d.partition, d."offset") IN (SELECT * FROM unnest($4::integer[], $5::bigint[])))
      AND d.stored_at < $11
      AND (d.partition, d."offset", d.output) > ($6::integer, $7::bigint, $8::text)
    WINDOW w AS (ORDER BY d.partition, d."offset", d.output)
    ORDER BY d.partition, d."offset", d.output
    LIMIT $9
)
SELECT d.output, d.partition, d."offset", d."timestamp", d.class, d.column_name, d.reason, d.raw, d.key, d.value,
       array_agg(r.output ORDER BY r.output), array_agg(r.event_time_max ORDER BY r.output)
FROM page p
JOIN highwater.dead_letters d
  ON d.topic = $1 AND d.partition = p.partition AND d."offset" = p."offset" AND d.output = p.output
 AND d.generation = p.generation
JOIN highwater.refusals r
  ON r.topic = $1 AND r.partition = p.partition AND r."offset" = p."offset" AND r.letter = p.output
 AND r.generation = p.generation
 AND r.retried_at IS NULL
WHERE p.number = 1 OR p.bytes <= $10
GROUP BY d.topic, d.partition, d."offset", d.output, d.generation
ORDER BY d.partition, d."offset", d.output
