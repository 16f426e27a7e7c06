-- From a file to its ranges: for `verify`, and for the foreign key when a file is removed.
CREATE INDEX lake_file_ranges_by_path ON highwater.lake_file_ranges (path)
