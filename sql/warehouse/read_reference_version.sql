-- The content of one version.
SELECT content FROM highwater.reference_versions WHERE reference = $1 AND version = $2
