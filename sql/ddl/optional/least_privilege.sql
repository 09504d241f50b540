-- Instead of the seed's policies, by which everybody with a grant may write: anon gets nothing, authenticated reads the
-- table, and a role that `schema apply --grant` names, before or after, also writes it and reads the history. An auditor
-- reads both: GRANT SELECT ON public.claude_sessions, public.claude_session_events TO auditor
-- Idempotent. Other policies stay, and rights to read that were granted by name.

DO $$
DECLARE
    sessions oid := 'public.claude_sessions'::regclass::oid;
    events oid := pg_catalog.to_regclass('public.claude_session_events')::oid;
    workers oid[];
    worker_names text;
    policy text;
    granted record;
BEGIN
    -- Each ALTER and DROP locks the table against everybody, so none is repeated.
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polrelid = sessions AND polname = 'claude_sessions_work') THEN
        -- The owner, and whoever may do all that `--grant` gives, by its own name and through authenticated.
        SELECT pg_catalog.string_agg(pg_catalog.quote_ident(role.rolname::text), ', '::text ORDER BY role.rolname)
        INTO worker_names
        FROM pg_catalog.pg_class AS relation
        JOIN pg_catalog.pg_roles AS role ON role.oid = relation.relowner OR (
            role.rolname NOT IN ('anon', 'authenticated')
            AND NOT role.rolsuper
            AND pg_catalog.pg_has_role(role.oid, 'authenticated', 'USAGE')
            AND 4 = (
                SELECT pg_catalog.count(DISTINCT acl.privilege_type)
                FROM pg_catalog.aclexplode(relation.relacl) AS acl
                WHERE acl.grantee = role.oid AND acl.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
            )
        )
        WHERE relation.oid = sessions;
        EXECUTE pg_catalog.format(
            'CREATE POLICY claude_sessions_work ON public.claude_sessions TO %s USING (true) WITH CHECK (true)',
            worker_names
        );
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polrelid = sessions AND polname = 'claude_sessions_read') THEN
        CREATE POLICY claude_sessions_read ON public.claude_sessions FOR SELECT TO PUBLIC USING (true);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polrelid = sessions AND polname = 'claude_sessions_anon') THEN
        -- Tools of hosted databases grant anon all tables again.
        CREATE POLICY claude_sessions_anon ON public.claude_sessions AS RESTRICTIVE TO anon USING (false);
    END IF;
    FOREACH policy IN ARRAY ARRAY['Allow all for anon', 'Allow all for authenticated'] LOOP
        IF EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polrelid = sessions AND polname = policy::name) THEN
            EXECUTE pg_catalog.format('DROP POLICY %I ON public.claude_sessions', policy);
        END IF;
    END LOOP;

    SELECT polroles INTO workers
    FROM pg_catalog.pg_policy WHERE polrelid = sessions AND polname = 'claude_sessions_work';
    FOR granted IN
        SELECT
            acl.relation, acl.grantee,
            pg_catalog.string_agg(DISTINCT acl.privilege_type, ', '::text) AS privileges
        FROM (
            SELECT
                relation.oid::regclass::text AS relation,
                CASE WHEN list.grantee = '0'::oid THEN 'PUBLIC'::text
                    ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(list.grantee)::text)
                END AS grantee,
                list.privilege_type
            FROM pg_catalog.pg_class AS relation
            LEFT JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = relation.oid
            CROSS JOIN LATERAL (
                SELECT * FROM pg_catalog.aclexplode(relation.relacl)
                UNION ALL
                SELECT * FROM pg_catalog.aclexplode(attribute.attacl)
            ) AS list
            WHERE relation.oid IN (sessions, events) AND list.grantee <> relation.relowner AND NOT CASE
                WHEN list.grantee IN ('0'::oid, 'anon'::regrole::oid) THEN false
                WHEN list.privilege_type = 'SELECT'
                    THEN relation.oid = sessions OR list.grantee <> 'authenticated'::regrole::oid
                ELSE relation.oid = sessions AND list.grantee = ANY(workers)
                    AND list.privilege_type IN ('INSERT', 'UPDATE', 'DELETE')
            END
        ) AS acl
        GROUP BY acl.relation, acl.grantee
    LOOP
        EXECUTE pg_catalog.format(
            'REVOKE %s ON TABLE %s FROM %s CASCADE', granted.privileges, granted.relation, granted.grantee
        );
    END LOOP;
    GRANT SELECT ON public.claude_sessions TO authenticated;
    IF events IS NOT NULL THEN
        SELECT pg_catalog.string_agg(pg_catalog.quote_ident(rolname::text), ', '::text) INTO worker_names
        FROM pg_catalog.pg_roles WHERE oid = ANY(workers);
        EXECUTE pg_catalog.format('GRANT SELECT ON public.claude_session_events TO %s', worker_names);
    END IF;
END
$$;
