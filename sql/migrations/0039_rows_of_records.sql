-- D-4: of a batched topic a record may be several rows. The first of each counts against marks.accepted, the others
-- are `extra_rows`.
ALTER TABLE highwater.lake_file_ranges
    DROP CONSTRAINT lake_file_ranges_check,
    ADD COLUMN extra_rows bigint NOT NULL DEFAULT 0 CHECK (extra_rows >= 0),
    ADD CHECK (extra_rows <= rows AND rows - extra_rows <= to_offset - from_offset)
