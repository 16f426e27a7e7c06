-- What was applied and its checksum: a migration that was changed afterwards is found.
CREATE TABLE IF NOT EXISTS highwater.migrations (
    name       text COLLATE "C" PRIMARY KEY,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL
)
