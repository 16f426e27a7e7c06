-- The unique keys of a table which ON CONFLICT can infer: whole, immediate, over plain columns.
SELECT array_agg(a.attname::text ORDER BY k.position), bool_and(i.indnullsnotdistinct OR a.attnotnull)
FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, position)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = (SELECT r.oid FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace
                    WHERE n.nspname = current_schema() AND r.relname = $1)
  AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
  AND k.position <= i.indnkeyatts
GROUP BY i.indexrelid
