-- X-2, X-3: offsets begin again in these partitions, and every record of them comes after the additions.
WITH places AS (
    DELETE FROM highwater.upstream_places WHERE topic = $1 AND partition = ANY ($2::integer[])
)
DELETE FROM highwater.added_column_starts WHERE topic = $1 AND partition = ANY ($2::integer[])
