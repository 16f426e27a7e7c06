-- N-4: a person's leave for the next cut of a model that deletes more than its topic allows.
CREATE TABLE highwater.accepted_deletes (
    model       text COLLATE "C" PRIMARY KEY,
    accepted_by text NOT NULL,
    accepted_at timestamptz NOT NULL DEFAULT now()
)
