-- X-2: the table that the records of each partition came of last: what the next one is compared with.
CREATE TABLE highwater.upstream_places (
    topic       text COLLATE "C" NOT NULL,
    partition   integer NOT NULL,
    version     text COLLATE "C" NOT NULL,
    from_offset bigint  NOT NULL,
    PRIMARY KEY (topic, partition),
    FOREIGN KEY (topic, version) REFERENCES highwater.upstream_versions
)
