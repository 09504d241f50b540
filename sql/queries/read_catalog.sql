-- Describe the live table as the catalog has it, one line per object.
-- Parameters: none. Returns: kind, name, definition; no rows where there is no table.
SELECT 'column' AS kind, attname AS name, concat_ws(' ',
    attnum - (SELECT count(*) FROM pg_attribute AS d WHERE d.attrelid = a.attrelid AND d.attnum BETWEEN 1 AND a.attnum AND d.attisdropped),
    format_type(atttypid, atttypmod),
    CASE WHEN attnotnull THEN 'NOT NULL' END,
    'DEFAULT ' || pg_get_expr(adbin, adrelid)) AS definition
FROM pg_attribute AS a
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attrelid = to_regclass('public.claude_sessions') AND attnum > 0 AND NOT attisdropped
UNION ALL
-- Postgres 18 also lists NOT NULL as constraints, which the columns tell already.
SELECT 'constraint', conname, pg_get_constraintdef(oid)
FROM pg_constraint
WHERE conrelid = to_regclass('public.claude_sessions') AND contype <> 'n'
UNION ALL
SELECT 'index', indexname, indexdef
FROM pg_indexes
WHERE schemaname = 'public' AND tablename = 'claude_sessions'
UNION ALL
SELECT 'row security', 'enabled', relrowsecurity::text
FROM pg_class
WHERE oid = to_regclass('public.claude_sessions')
UNION ALL
SELECT 'policy', policyname, concat_ws(' ', permissive, cmd, 'TO', array_to_string(roles, ', '),
    'USING (' || qual || ')', 'WITH CHECK (' || with_check || ')')
FROM pg_policies
WHERE schemaname = 'public' AND tablename = 'claude_sessions'
UNION ALL
SELECT 'trigger', tgname, pg_get_triggerdef(oid)
FROM pg_trigger
WHERE tgrelid = to_regclass('public.claude_sessions') AND NOT tgisinternal
ORDER BY kind, name;
