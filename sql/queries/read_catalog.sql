-- Describe the live tables in the catalog's words, one line per object.
-- Parameters: none. Returns: kind, name, definition; no rows if the table is missing.
WITH relations AS (
    SELECT oid, relname, CASE WHEN relname = 'claude_sessions' THEN '' ELSE relname || '.' END AS prefix
    FROM pg_class
    WHERE oid IN (to_regclass('public.claude_sessions'), to_regclass('public.claude_session_events'))
)
SELECT 'column' AS kind, prefix || attname AS name,
    concat_ws(' ', format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'NOT NULL' END,
        'DEFAULT ' || pg_get_expr(adbin, adrelid),
        CASE WHEN attidentity = 'a' THEN 'GENERATED ALWAYS AS IDENTITY' END
    ) AS definition
FROM relations
JOIN pg_attribute ON attrelid = relations.oid
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attnum > 0 AND NOT attisdropped
UNION ALL
-- Postgres 18 also lists NOT NULL as constraints, which the columns show already.
SELECT 'constraint', conname, pg_get_constraintdef(pg_constraint.oid)
FROM relations
JOIN pg_constraint ON conrelid = relations.oid
WHERE contype <> 'n'
UNION ALL
SELECT 'index', pg_class.relname,
    concat_ws(' ', pg_get_indexdef(indexrelid), CASE WHEN NOT indisvalid THEN 'INVALID' END)
FROM relations
JOIN pg_index ON indrelid = relations.oid
JOIN pg_class ON pg_class.oid = indexrelid
UNION ALL
SELECT 'row security', prefix || setting, value::text
FROM relations
JOIN pg_class ON pg_class.oid = relations.oid
CROSS JOIN LATERAL (VALUES ('enabled', relrowsecurity), ('forced', relforcerowsecurity)) AS security (setting, value)
WHERE value OR (setting = 'enabled' AND prefix = '')
UNION ALL
SELECT 'policy', prefix || policyname, concat_ws(' ', permissive, cmd, 'TO', array_to_string(roles, ', '),
    'USING (' || qual || ')', 'WITH CHECK (' || with_check || ')')
FROM relations
JOIN pg_policies ON schemaname = 'public' AND tablename = relname
UNION ALL
SELECT 'trigger', tgname,
    concat_ws(' ', pg_get_triggerdef(pg_trigger.oid), CASE WHEN tgenabled = 'D' THEN 'DISABLED' END)
FROM relations
JOIN pg_trigger ON tgrelid = relations.oid
WHERE NOT tgisinternal
UNION ALL
-- A function is compared by the hash of its text.
SELECT 'function', proname,
    concat_ws(' ', pg_get_function_identity_arguments(oid), CASE WHEN prosecdef THEN 'SECURITY DEFINER' END,
        array_to_string(proconfig, ' '), md5(prosrc))
FROM pg_proc
WHERE oid IN (to_regproc('public.claude_sessions_record'), to_regproc('public.claude_sessions_append'))
ORDER BY kind, name;
