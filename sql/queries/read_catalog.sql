-- Describe the live table as the catalog has it, one line per object.
-- Parameters: none. Returns: kind, name, definition; no rows where there is no table.
SELECT 'column' AS kind, attname AS name,
    concat_ws(' ', format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'NOT NULL' END,
        'DEFAULT ' || pg_get_expr(adbin, adrelid)) AS definition
FROM pg_attribute
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attrelid = to_regclass('public.claude_sessions') AND attnum > 0 AND NOT attisdropped
UNION ALL
-- Postgres 18 also lists NOT NULL as constraints, which the columns tell already.
SELECT 'constraint', conname, pg_get_constraintdef(oid)
FROM pg_constraint
WHERE conrelid = to_regclass('public.claude_sessions') AND contype <> 'n'
UNION ALL
SELECT 'index', relname, concat_ws(' ', pg_get_indexdef(indexrelid), CASE WHEN NOT indisvalid THEN 'INVALID' END)
FROM pg_index
JOIN pg_class ON oid = indexrelid
WHERE indrelid = to_regclass('public.claude_sessions')
UNION ALL
SELECT 'row security', setting, value::text
FROM pg_class
CROSS JOIN LATERAL (VALUES ('enabled', relrowsecurity), ('forced', relforcerowsecurity)) AS security (setting, value)
WHERE oid = to_regclass('public.claude_sessions') AND (setting = 'enabled' OR value)
UNION ALL
SELECT 'policy', policyname, concat_ws(' ', permissive, cmd, 'TO', array_to_string(roles, ', '),
    'USING (' || qual || ')', 'WITH CHECK (' || with_check || ')')
FROM pg_policies
WHERE schemaname = 'public' AND tablename = 'claude_sessions'
UNION ALL
SELECT 'trigger', tgname, concat_ws(' ', pg_get_triggerdef(oid), CASE WHEN tgenabled = 'D' THEN 'DISABLED' END)
FROM pg_trigger
WHERE tgrelid = to_regclass('public.claude_sessions') AND NOT tgisinternal
ORDER BY kind, name;
