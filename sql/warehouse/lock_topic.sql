-- W-2: before any mark is locked; partitions that were added are made known once.
SELECT partitions FROM highwater.topics WHERE topic = $1 FOR UPDATE
