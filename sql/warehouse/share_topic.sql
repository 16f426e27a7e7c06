-- B-7, W-2: nobody swaps a new output in while marks are made; before any mark, as every lock of the topic.
SELECT FROM highwater.topics WHERE topic = $1 FOR SHARE
