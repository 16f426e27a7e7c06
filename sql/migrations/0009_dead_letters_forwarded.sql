-- When Kafka confirmed the letter in the topic that `dead_letters.forward` names; sent at least once.
ALTER TABLE highwater.dead_letters ADD COLUMN forwarded_at timestamptz;

CREATE INDEX dead_letters_unforwarded ON highwater.dead_letters (topic, partition, "offset") WHERE forwarded_at IS NULL
