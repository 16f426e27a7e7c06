-- Every file that readers may see, of one topic's lake; also those of before a swap, while they may be read.
SELECT path FROM highwater.lake_files WHERE topic = $1
UNION ALL
SELECT path FROM highwater.lake_retired_files WHERE topic = $1
