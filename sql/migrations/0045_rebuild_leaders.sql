-- B-7: whose marks a rebuild follows. The live output's; of an output that is not there yet those of the dead letters.
ALTER TABLE highwater.rebuilds ADD COLUMN leader text COLLATE "C";
UPDATE highwater.rebuilds SET leader = output;
ALTER TABLE highwater.rebuilds ALTER COLUMN leader SET NOT NULL
