-- Topics whose lake is being written anew.
SELECT topic FROM highwater.lake_rewrites ORDER BY topic
