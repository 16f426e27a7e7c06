-- G-2: waits for every take and commit in flight and holds up those that come, for the few milliseconds of an
-- acceptance: neither can a mark move under it, nor a new one appear in the generation that ends.
LOCK TABLE highwater.marks IN EXCLUSIVE MODE
