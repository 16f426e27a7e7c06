-- The record that followed had come as far by itself: judging without the advance gives the same.
DELETE FROM highwater.idle_advances a
USING unnest($2::integer[], $3::bigint[]) AS w (partition, before_offset)
JOIN highwater.marks l ON l.topic = $1 AND l.output = 'dead_letters' AND l.partition = w.partition
WHERE a.topic = $1 AND a.partition = w.partition AND a.before_offset = w.before_offset
  AND a.generation = l.generation
