-- What definitions of models consist of, by the fingerprint that the comment of a table names: so a table that another one
-- filled may be known as one that lacks columns and nothing else.
CREATE TABLE highwater.definitions (
    definition text COLLATE "C" PRIMARY KEY,
    frame      text COLLATE "C" NOT NULL,
    pieces     text[] COLLATE "C" NOT NULL,
    noted_at   timestamptz NOT NULL
)
