-- For `verify`: everything it reads is of one moment. It writes only temporary tables, and rolls back.
BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ WRITE
