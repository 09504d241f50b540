-- Tell which server process answers: through a pooler it is not the one that libpq was told of.
-- Parameters: none. Returns: pid.
SELECT pg_backend_pid() AS pid;
