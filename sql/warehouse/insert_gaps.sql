-- G-2: what was accepted, when and by whom. The sum of lost is marks.lost.
INSERT INTO highwater.gaps (topic, partition, output, generation, from_offset, to_offset, reason, lost,
                            topic_id_old, topic_id_new, accepted_at, accepted_by)
SELECT $1, g.partition, g.output, g.generation, g.from_offset, g.to_offset, g.reason, g.lost,
       g.topic_id_old, g.topic_id_new, now(), session_user || ' at ' || $10
FROM unnest($2::text[], $3::integer[], $4::integer[], $5::bigint[], $6::bigint[], $7::text[], $8::text[],
            $9::text[], $11::bigint[])
     AS g (output, partition, generation, from_offset, to_offset, reason, topic_id_old, topic_id_new, lost)
