-- X-3: columns that `drift = "apply"` added (`was` is null) or widened, in order, and where they were met first.
CREATE TABLE highwater.added_columns (
    topic       text COLLATE "C" NOT NULL,
    number      integer NOT NULL CHECK (number > 0),
    column_name text COLLATE "C" NOT NULL,
    field       text COLLATE "C" NOT NULL,
    type        text    NOT NULL,
    was         text,
    version     text COLLATE "C" NOT NULL,
    partition   integer NOT NULL,
    "offset"    bigint  NOT NULL,
    added_at    timestamptz NOT NULL,
    PRIMARY KEY (topic, number),
    UNIQUE (topic, column_name, type),
    FOREIGN KEY (topic, version) REFERENCES highwater.upstream_versions
);
-- From which offset on the records of each partition are decoded by it: at or above every mark of then. A partition
-- without a row had none, or began anew since.
CREATE TABLE highwater.added_column_starts (
    topic     text COLLATE "C" NOT NULL,
    number    integer NOT NULL,
    partition integer NOT NULL,
    since     bigint  NOT NULL,
    PRIMARY KEY (topic, number, partition),
    FOREIGN KEY (topic, number) REFERENCES highwater.added_columns
)
