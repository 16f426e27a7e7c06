-- Said in full, since a database may have other defaults: that a statement sees what was committed while it
-- waited for a lock is what `lock_marks` and `move_marks` rest upon.
BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE
