-- B-1: an output that is made anew beside the live one: its marks are those of `shadow`, its tables bear that
-- name. definition is the fingerprint of what fills them; retried is how many records a retry had offered
-- to the live output when it began, which it follows. The row goes with the swap, or with `replay --abort`.
CREATE TABLE highwater.rebuilds (
    topic      text COLLATE "C" NOT NULL,
    output     text COLLATE "C" NOT NULL,
    shadow     text COLLATE "C" NOT NULL CHECK (shadow LIKE 'model:\_rebuild\_%'),
    definition text NOT NULL,
    retried    bigint NOT NULL,
    started_at timestamptz NOT NULL,
    PRIMARY KEY (topic, output)
)
