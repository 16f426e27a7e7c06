-- Every file that readers may see, of one topic's lake.
SELECT path FROM highwater.lake_files WHERE topic = $1
