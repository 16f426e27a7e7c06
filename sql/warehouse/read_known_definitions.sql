-- What definitions consist of; of those that no version of before has noted nothing.
SELECT definition, frame, pieces FROM highwater.definitions WHERE definition = ANY ($1::text[])
