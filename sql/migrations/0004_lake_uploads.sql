-- An upload is noted before its first part, and the cut that commits its file removes the note: what is
-- left over from a crash is known by name. partition and epoch say which cut alone may still commit it.
CREATE TABLE highwater.lake_uploads (
    upload    text COLLATE "C" PRIMARY KEY,
    topic     text COLLATE "C" NOT NULL,
    path      text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    epoch     bigint  NOT NULL,
    noted_at  timestamptz NOT NULL
)
