-- Describe the live tables in the catalog's words, one line per object.
-- Parameters: none. Returns: kind, name, definition; no rows if the table is missing.
WITH relations AS (
    SELECT oid, relname, CASE WHEN relname = 'claude_sessions' THEN '' ELSE relname::text || '.'::text END AS prefix
    FROM pg_catalog.pg_class
    WHERE oid IN (
        pg_catalog.to_regclass('public.claude_sessions')::oid,
        pg_catalog.to_regclass('public.claude_session_events')::oid
    )
)
SELECT 'column' AS kind, prefix || attname::text AS name,
    pg_catalog.concat_ws(' ', pg_catalog.format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'NOT NULL' END,
        'DEFAULT '::text || pg_catalog.pg_get_expr(adbin, adrelid),
        CASE WHEN attidentity = 'a' THEN 'GENERATED ALWAYS AS IDENTITY' END
    ) AS definition
FROM relations
JOIN pg_catalog.pg_attribute ON attrelid = relations.oid
LEFT JOIN pg_catalog.pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attnum > 0 AND NOT attisdropped
UNION ALL
-- Postgres 18 also lists NOT NULL as constraints, which the columns show already.
SELECT 'constraint', conname, pg_catalog.pg_get_constraintdef(pg_constraint.oid)
FROM relations
JOIN pg_catalog.pg_constraint ON conrelid = relations.oid
WHERE contype <> 'n'
UNION ALL
SELECT 'index', pg_class.relname,
    pg_catalog.concat_ws(' ', pg_catalog.pg_get_indexdef(indexrelid), CASE WHEN NOT indisvalid THEN 'INVALID' END)
FROM relations
JOIN pg_catalog.pg_index ON indrelid = relations.oid
JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid
UNION ALL
-- The value is the administrator's choice.
SELECT 'setting', prefix || option_name, 'set'
FROM relations
JOIN pg_catalog.pg_class ON pg_class.oid = relations.oid
CROSS JOIN LATERAL pg_catalog.pg_options_to_table(reloptions)
UNION ALL
SELECT 'row security', prefix || setting, value::text
FROM relations
JOIN pg_catalog.pg_class ON pg_class.oid = relations.oid
CROSS JOIN LATERAL (VALUES ('enabled', relrowsecurity), ('forced', relforcerowsecurity)) AS security (setting, value)
WHERE value OR (setting = 'enabled' AND prefix = '')
UNION ALL
SELECT 'policy', prefix || policyname::text,
    pg_catalog.concat_ws(' ', permissive, cmd, 'TO',
        CASE WHEN policyname = 'claude_sessions_work' AND NOT (
            roles OPERATOR(pg_catalog.&&) '{public,anon,authenticated}'::name[]
        ) THEN 'the roles granted' ELSE pg_catalog.array_to_string(roles, ', ') END,
        'USING ('::text || qual || ')'::text, 'WITH CHECK ('::text || with_check || ')'::text)
FROM relations
JOIN pg_catalog.pg_policies ON schemaname = 'public' AND tablename = relname
UNION ALL
SELECT 'trigger', tgname,
    pg_catalog.concat_ws(' ', pg_catalog.pg_get_triggerdef(pg_trigger.oid),
        CASE WHEN tgenabled = 'D' THEN 'DISABLED' END)
FROM relations
JOIN pg_catalog.pg_trigger ON tgrelid = relations.oid
WHERE NOT tgisinternal
UNION ALL
-- A function is compared by the hash of its text, and by who may execute it besides its owner if it writes history.
SELECT 'function', proname,
    pg_catalog.concat_ws(' ', pg_catalog.pg_get_function_identity_arguments(oid),
        CASE WHEN prosecdef THEN 'SECURITY DEFINER' END,
        pg_catalog.array_to_string(proconfig, ' '), pg_catalog.md5(prosrc),
        CASE WHEN proname <> 'claude_sessions_reap_by_silence' THEN (
            SELECT 'EXECUTE TO '::text || pg_catalog.string_agg(
                CASE WHEN grantee = '0'::oid THEN 'PUBLIC'::text
                    ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(grantee)::text)
                END, ', '::text ORDER BY grantee
            )
            FROM pg_catalog.aclexplode(coalesce(proacl, pg_catalog.acldefault('f'::"char", proowner)))
            WHERE grantee <> proowner
        ) END)
FROM pg_catalog.pg_proc
-- By its arguments: anybody who may create in the schema may overload it.
WHERE pronamespace = pg_catalog.to_regnamespace('public')::oid
    AND (proname::text, pg_catalog.oidvectortypes(proargtypes)) IN (
        ('claude_sessions_record', ''),
        ('claude_sessions_append', 'text, public.claude_sessions, text, text, text'),
        ('claude_sessions_reap_by_silence', 'interval, bigint, timestamp with time zone')
    )
ORDER BY kind, name;
