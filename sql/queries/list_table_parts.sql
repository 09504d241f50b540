-- List the constraints, indexes, policies and triggers of the table, by kind and name.
-- Parameters: none. Returns: kind, name, definition; of a policy also command, roles, using_text and check_text.
SELECT
    CASE contype WHEN 'p' THEN 'primary key' WHEN 'u' THEN 'unique' WHEN 'c' THEN 'check' WHEN 'f' THEN 'foreign key'
        ELSE 'other' END AS kind,
    conname::text AS name,
    pg_catalog.pg_get_constraintdef(oid) AS definition,
    NULL::text AS command, NULL::text AS roles, NULL::text AS using_text, NULL::text AS check_text
FROM pg_catalog.pg_constraint
-- Postgres 18 also lists NOT NULL as constraints, which the columns show already.
WHERE conrelid = 'public.claude_sessions'::regclass::oid AND contype <> 'n'
UNION ALL
SELECT 'index', pg_class.relname::text, pg_catalog.pg_get_indexdef(indexrelid), NULL, NULL, NULL, NULL
FROM pg_catalog.pg_index
JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid
WHERE indrelid = 'public.claude_sessions'::regclass::oid
UNION ALL
SELECT 'policy', policyname::text, permissive, cmd, roles::text, qual, with_check
FROM pg_catalog.pg_policies
WHERE schemaname = 'public' AND tablename = 'claude_sessions'
UNION ALL
SELECT 'trigger', tgname::text, pg_catalog.pg_get_triggerdef(oid), NULL, NULL, NULL, NULL
FROM pg_catalog.pg_trigger
WHERE tgrelid = 'public.claude_sessions'::regclass::oid AND NOT tgisinternal
ORDER BY kind, name;
