-- Open a transaction that a standby refuses, even for a role that is read-only by default.
-- Parameters: none. Returns: nothing.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
