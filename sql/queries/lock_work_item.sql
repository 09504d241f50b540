-- Serialise all claims of one work item; a statement of its own, so that the next statement's snapshot follows the
-- lock.
-- Parameters: sd_id (text: in NFC). Returns: one row, void.
SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext(%(sd_id)s::text));
