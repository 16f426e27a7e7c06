-- Which partition holds the watermark of each output back, and by how much the others are ahead of it.
SELECT w.topic, w.output, w.held_back_by AS partition, w.watermark,
       (SELECT max(p.watermark) FROM highwater.partition_watermarks p
        WHERE p.topic = w.topic AND p.output = w.output) - w.watermark AS behind_the_fastest,
       w.since, m.owner, m.epoch, m.next_offset
FROM highwater.watermarks w
LEFT JOIN highwater.marks m ON m.topic = w.topic AND m.output = w.output AND m.partition = w.held_back_by
ORDER BY behind_the_fastest DESC NULLS FIRST, w.topic, w.output
