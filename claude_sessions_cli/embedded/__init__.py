"""The private Postgres server, used if no other database is configured."""
