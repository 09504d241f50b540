-- Return the server process that answers: through a pooler it differs from the one that libpq knows.
-- Parameters: none. Returns: pid.
SELECT pg_catalog.pg_backend_pid() AS pid;
