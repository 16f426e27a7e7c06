-- E-5: an output's watermark waits for every partition that is known.
UPDATE highwater.topics SET partitions = $2 WHERE topic = $1 AND partitions < $2
