-- Find the schemas that hold a table or view of our name, if public has none.
-- Parameters: none. Returns: one row, whether the schema public exists (has_public), and those schemas as names that SQL
-- takes (places).
SELECT
    pg_catalog.to_regnamespace('public'::text) IS NOT NULL AS has_public,
    ARRAY(
        SELECT pg_catalog.quote_ident(nspname::text)
        FROM pg_catalog.pg_class
        INNER JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        WHERE relname = 'claude_sessions'::name AND relkind IN ('r'::"char", 'p'::"char", 'v'::"char", 'f'::"char")
            AND nspname <> 'public'::name AND NOT pg_catalog.starts_with(nspname::text, 'pg_'::text)
            AND pg_catalog.to_regclass('public.claude_sessions'::text) IS NULL
        ORDER BY 1
    ) AS places;
