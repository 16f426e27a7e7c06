-- What a reference held when it was loaded. The rows stay: whatever was made by them can be made again.
CREATE TABLE highwater.reference_versions (
    reference text COLLATE "C" NOT NULL,
    version   text COLLATE "C" NOT NULL,
    rows      bigint NOT NULL CHECK (rows >= 0),
    content   bytea  NOT NULL,
    loaded_at timestamptz NOT NULL,
    PRIMARY KEY (reference, version)
)
