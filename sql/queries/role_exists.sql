-- Return whether a role exists.
-- Parameters: role (text). Returns: role_exists.
SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = %(role)s::text) AS role_exists;
