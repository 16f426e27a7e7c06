-- How many partitions a topic is known to have. None: it was never declared here.
SELECT partitions FROM highwater.topics WHERE topic = $1
