-- Of each topic: files whose cut is committed and that are not visible yet, uploads that no cut has committed (under way,
-- or left by a crash and not yet aborted), and since when.
SELECT t.topic,
       (SELECT count(*) FROM highwater.lake_files f
        WHERE f.topic = t.topic AND f.completed_at IS NULL) AS not_visible,
       (SELECT count(*) FROM highwater.lake_uploads u WHERE u.topic = t.topic) AS uploads,
       least((SELECT min(f.committed_at) FROM highwater.lake_files f
              WHERE f.topic = t.topic AND f.completed_at IS NULL),
             (SELECT min(u.noted_at) FROM highwater.lake_uploads u WHERE u.topic = t.topic)) AS since
FROM highwater.topics t
ORDER BY t.topic
