-- Fail if row security may hide rows from this role: a hidden holder would be a hidden conflict. Statements after this
-- one in its message are skipped then. A cast that fails carries the role's name; one of constants would always fail.
-- Parameters: commands (text[]: letters of pg_policy.polcmd). Returns: has_history (whether this role may read it; NULL
-- if it is missing), has_terminals.
WITH policies AS (
    SELECT
        polcmd, polpermissive,
        coalesce(pg_catalog.pg_get_expr(polqual, polrelid), 'true'::text) = 'true'::text AS shows_all,
        coalesce(pg_catalog.pg_get_expr(polwithcheck, polrelid), 'true'::text) = 'true'::text AS takes_all
    FROM pg_catalog.pg_policy
    WHERE polrelid = 'public.claude_sessions'::regclass::oid
        AND (
            polroles OPERATOR(pg_catalog.=) '{0}'::oid[]
            OR EXISTS (
                SELECT FROM pg_catalog.unnest(polroles) AS r WHERE pg_catalog.pg_has_role(r, 'USAGE'::text)
            )
        )
),
open_commands AS (
    SELECT command
    FROM pg_catalog.unnest('{r,a,w,d}'::text[]) AS command
    CROSS JOIN LATERAL (
        SELECT
            pg_catalog.bool_or(polpermissive AND lets_all)
            AND NOT pg_catalog.bool_or(NOT polpermissive AND NOT lets_all) AS is_open
        FROM (
            SELECT polpermissive, shows_all AND (takes_all OR command IN ('r'::text, 'd'::text)) AS lets_all
            FROM policies
            WHERE polcmd IN ('*'::"char", command::"char")
        ) AS applied
    ) AS verdict
    WHERE is_open
)
SELECT CASE
    WHEN NOT pg_catalog.row_security_active('public.claude_sessions'::text)
        OR NOT EXISTS (
            SELECT FROM pg_catalog.unnest(%(commands)s::text[]) AS needed
            WHERE NOT EXISTS (SELECT FROM open_commands WHERE command = needed)
        )
        THEN pg_catalog.has_table_privilege(pg_catalog.to_regclass('public.claude_session_events'::text)::oid, 'SELECT'::text)
    ELSE pg_catalog.concat('claude_sessions: rows are hidden from ', current_user)::boolean
END AS has_history,
{has_terminals} AS has_terminals;
