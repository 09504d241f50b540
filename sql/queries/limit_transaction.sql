-- Bound the waits of this transaction, record its actor, and read times in one format only.
-- Parameters: timeout_ms (text: an integer), durable (boolean: COMMIT waits for the disk), actor (text: a session id or
-- empty), actor_host (text). Returns: one row, the settings.
-- The role's own search_path stays in force, because triggers of other programs may rely on it; but names of the system
-- come before names that somebody else may create.
SELECT
    pg_catalog.set_config('statement_timeout', timeout_ms, true),
    pg_catalog.set_config('lock_timeout', timeout_ms, true),
    pg_catalog.set_config('idle_in_transaction_session_timeout', timeout_ms, true),
    pg_catalog.set_config('timezone', 'UTC', true),
    pg_catalog.set_config('datestyle', 'ISO', true),
    pg_catalog.set_config('claude_sessions.actor', %(actor)s::pg_catalog.text, true),
    pg_catalog.set_config('claude_sessions.actor_host', %(actor_host)s::pg_catalog.text, true),
    CASE
        WHEN %(durable)s::boolean
            AND pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off'::pg_catalog.text
            THEN pg_catalog.set_config('synchronous_commit', 'on', true)
    END,
    CASE
        WHEN first_schema OPERATOR(pg_catalog.<>) 'pg_catalog'::pg_catalog.name
            THEN pg_catalog.set_config(
                'search_path', pg_catalog.concat('pg_catalog, ', pg_catalog.current_setting('search_path')), true
            )
    END
FROM (
    SELECT %(timeout_ms)s::pg_catalog.text AS timeout_ms, schema AS first_schema
    FROM pg_catalog.unnest(pg_catalog.current_schemas(true)) WITH ORDINALITY AS path (schema, place)
    -- Functions and operators are never looked up among temporary objects.
    WHERE NOT pg_catalog.starts_with(schema::pg_catalog.text, 'pg_temp_'::pg_catalog.text)
    ORDER BY place
    LIMIT 1
) AS given;
