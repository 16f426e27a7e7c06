-- X-4: whoever holds partitions of the topic takes them anew, and so learns of the addition, before it commits.
UPDATE highwater.marks SET epoch = epoch + 1 WHERE topic = $1
