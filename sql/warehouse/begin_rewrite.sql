-- Z-1: one rewrite of a topic's lake at a time. Nothing where one is under way: whoever comes next goes on with it.
WITH begun AS (
    INSERT INTO highwater.lake_rewrites (topic, number, definition, owner, grace, started_at)
    SELECT $1, nextval('highwater.lake_rewrite_numbers'), $2, $3, $4, now()
    WHERE NOT EXISTS (SELECT FROM highwater.lake_rewrites WHERE topic = $1)
    ON CONFLICT (topic) DO NOTHING
    RETURNING topic
)
INSERT INTO highwater.lake_rewrite_spans (topic, partition, generation, from_offset, next_offset, to_offset)
SELECT b.topic, w.partition, w.generation, w.from_offset, w.from_offset, w.to_offset
FROM begun b, unnest($5::integer[], $6::integer[], $7::bigint[], $8::bigint[])
     AS w (partition, generation, from_offset, to_offset)
