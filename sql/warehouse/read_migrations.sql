-- In order of number.
SELECT name, checksum FROM highwater.migrations ORDER BY name
