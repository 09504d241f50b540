-- Say which commands row security does not open to this role, and whether `schema apply --grant` would: see grant_access.
-- Parameters: commands (text[]: letters of pg_policy.polcmd). Returns: role, closed (text[]: those
-- without an open policy), limits (text[]: the restrictive policies), is_grantable.
WITH policies AS (
    SELECT
        polname, polcmd, polpermissive,
        coalesce(pg_catalog.pg_get_expr(polqual, polrelid), 'true'::text) = 'true'::text AS shows_all,
        coalesce(pg_catalog.pg_get_expr(polwithcheck, polrelid), 'true'::text) = 'true'::text AS takes_all,
        polroles OPERATOR(pg_catalog.=) '{0}'::oid[] OR EXISTS (
            SELECT FROM pg_catalog.unnest(polroles) AS r WHERE pg_catalog.pg_has_role(r, 'USAGE'::text)
        ) AS applies,
        CASE
            WHEN EXISTS (
                SELECT FROM pg_catalog.pg_policy AS workers
                WHERE workers.polrelid = pg_policy.polrelid AND workers.polname = 'claude_sessions_work'::name
            )
                THEN polname = 'claude_sessions_work'::name
            ELSE EXISTS (
                SELECT FROM pg_catalog.unnest(polroles) AS r
                INNER JOIN pg_catalog.pg_roles ON pg_roles.rolname = 'authenticated'::name
                WHERE pg_catalog.pg_has_role(pg_roles.oid, r, 'USAGE'::text)
            )
        END AS is_granted
    FROM pg_catalog.pg_policy
    WHERE polrelid = 'public.claude_sessions'::regclass::oid
),
verdicts AS (
    SELECT
        needed.place,
        needed.word,
        coalesce(pg_catalog.bool_or(applies AND polpermissive AND lets_all), false) AS is_open,
        coalesce(pg_catalog.bool_or((applies OR is_granted) AND polpermissive AND lets_all), false) AS would_be_open,
        pg_catalog.array_agg(polname::text) FILTER (
            WHERE (applies OR is_granted) AND NOT polpermissive AND NOT lets_all
        ) AS limits
    FROM (
        VALUES (1, 'r'::text, 'SELECT'::text), (2, 'a', 'INSERT'), (3, 'w', 'UPDATE'), (4, 'd', 'DELETE')
    ) AS needed (place, command, word)
    LEFT JOIN LATERAL (
        SELECT policies.*, shows_all AND (takes_all OR command IN ('r'::text, 'd'::text)) AS lets_all
        FROM policies
        WHERE polcmd IN ('*'::"char", command::"char")
    ) AS applied ON true
    WHERE command = ANY(%(commands)s::text[])
    GROUP BY needed.place, needed.word
)
SELECT
    current_user::text AS role,
    coalesce(pg_catalog.array_agg(word ORDER BY place) FILTER (WHERE NOT is_open), '{}'::text[]) AS closed,
    ARRAY(
        SELECT DISTINCT narrow FROM verdicts CROSS JOIN LATERAL pg_catalog.unnest(verdicts.limits) AS narrow ORDER BY narrow
    ) AS limits,
    pg_catalog.bool_and(would_be_open AND limits IS NULL) AS is_grantable
FROM verdicts;
