-- Commit a transaction.
-- Parameters: none. Returns: nothing.
COMMIT;
