-- List the roles that may change the tables, or run the function that reaps, by grants and policies. Superusers and
-- whoever has the rights of the owner are left out, and members of PUBLIC if that may do the same.
-- Parameters: none. Returns: role, object, deeds (text[]), is_expected (whether the files in force allow it).
WITH relations AS (
    SELECT pg_class.oid, relname, relnamespace, relkind, relowner, relrowsecurity,
        pg_class.oid = pg_catalog.to_regclass('public.claude_sessions')::oid AS is_table
    FROM pg_catalog.pg_class
    WHERE pg_class.oid IN (
            pg_catalog.to_regclass('public.claude_sessions')::oid,
            pg_catalog.to_regclass('public.claude_session_events')::oid
        )
        OR relkind = 'S' AND EXISTS (
            SELECT FROM pg_catalog.pg_depend
            WHERE objid = pg_class.oid AND refobjid = pg_catalog.to_regclass('public.claude_session_events')::oid
                AND deptype = 'i'
        )
),
roles AS (
    SELECT oid, rolname::text AS role, rolbypassrls
    FROM pg_catalog.pg_roles
    WHERE NOT rolsuper AND NOT pg_catalog.starts_with(rolname::text, 'pg_'::text)
    UNION ALL
    SELECT '0'::oid, 'PUBLIC', false
),
workers AS (
    SELECT pg_catalog.unnest(polroles) AS worker
    FROM pg_catalog.pg_policy
    WHERE polrelid = pg_catalog.to_regclass('public.claude_sessions')::oid AND polname = 'claude_sessions_work'
),
granted AS (
    SELECT roles.oid, roles.role, relations.relname::text AS object, deed, place,
        is_table AND (
            NOT EXISTS (SELECT FROM workers)
            OR place <= 3 AND EXISTS (
                SELECT FROM workers
                WHERE worker <> '0'::oid
                    AND pg_catalog.pg_get_userbyid(worker) NOT IN ('anon', 'authenticated')
                    AND CASE WHEN roles.oid <> '0'::oid THEN pg_catalog.pg_has_role(roles.oid, worker, 'USAGE') END
            )
        ) AS is_expected
    FROM relations
    CROSS JOIN roles
    CROSS JOIN LATERAL (
        VALUES
        (1, 'INSERT', 'a'), (2, 'UPDATE', 'w'), (3, 'DELETE', 'd'),
        (4, 'TRUNCATE', NULL), (5, 'REFERENCES', NULL), (6, 'TRIGGER', NULL), (7, 'USAGE', NULL)
    ) AS deeds (place, deed, command)
    WHERE CASE
            WHEN relkind = 'S'
                THEN deed IN ('UPDATE', 'USAGE') AND pg_catalog.has_sequence_privilege(roles.oid, relations.oid, deed)
            WHEN deed IN ('INSERT', 'UPDATE', 'REFERENCES')
                THEN pg_catalog.has_any_column_privilege(roles.oid, relations.oid, deed)
            ELSE deed <> 'USAGE' AND pg_catalog.has_table_privilege(roles.oid, relations.oid, deed)
        END
        AND pg_catalog.has_schema_privilege(roles.oid, relnamespace, 'USAGE')
        AND CASE WHEN roles.oid = '0'::oid THEN true ELSE NOT pg_catalog.pg_has_role(roles.oid, relowner, 'USAGE') END
        AND (
            command IS NULL OR relkind = 'S' OR NOT relrowsecurity OR rolbypassrls
            OR EXISTS (
                SELECT FROM pg_catalog.pg_policy
                CROSS JOIN LATERAL pg_catalog.unnest(polroles) AS named
                WHERE polrelid = relations.oid AND polpermissive AND polcmd IN ('*'::"char", command::"char")
                    AND CASE WHEN named = '0'::oid THEN true WHEN roles.oid = '0'::oid THEN false
                        ELSE pg_catalog.pg_has_role(roles.oid, named, 'USAGE') END
            )
        )
    UNION ALL
    SELECT roles.oid, roles.role, proname::text, 'EXECUTE', 1, true
    FROM pg_catalog.pg_proc
    CROSS JOIN roles
    WHERE pg_proc.oid = pg_catalog.to_regprocedure(
            'public.claude_sessions_reap_by_silence(interval, bigint, timestamp with time zone)'
        )::oid
        AND pg_catalog.has_function_privilege(roles.oid, pg_proc.oid, 'EXECUTE')
        AND CASE WHEN roles.oid = '0'::oid THEN true ELSE NOT pg_catalog.pg_has_role(roles.oid, proowner, 'USAGE') END
)
SELECT role, object, pg_catalog.array_agg(deed ORDER BY place) AS deeds, is_expected
FROM granted
WHERE oid = '0'::oid OR NOT EXISTS (
    SELECT FROM granted AS everybody
    WHERE everybody.oid = '0'::oid AND everybody.object = granted.object AND everybody.deed = granted.deed
)
GROUP BY role, object, is_expected
ORDER BY object, role, is_expected;
