-- By which version an output's records were looked up: from this offset to the next row's.
CREATE TABLE highwater.reference_uses (
    output      text COLLATE "C" NOT NULL,
    topic       text COLLATE "C" NOT NULL,
    partition   integer NOT NULL,
    from_offset bigint  NOT NULL,
    reference   text COLLATE "C" NOT NULL,
    version     text COLLATE "C" NOT NULL,
    PRIMARY KEY (topic, output, partition, from_offset),
    FOREIGN KEY (reference, version) REFERENCES highwater.reference_versions
)
