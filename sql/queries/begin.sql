-- Open a transaction. READ COMMITTED whatever the database's default is: each statement after a lock must see what the
-- lock protected.
-- Parameters: none. Returns: nothing.
BEGIN ISOLATION LEVEL READ COMMITTED;
