-- Read the server's clock.
-- Parameters: now. Returns: now.
SELECT coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp()) AS now;
