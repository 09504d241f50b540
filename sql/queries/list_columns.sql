-- List the columns of the table, in order.
-- Parameters: none. Returns: name, type, nullable, default_text, description.
SELECT
    column_name::text AS name,
    pg_catalog.concat(
        CASE data_type::text
            WHEN 'USER-DEFINED'::text THEN udt_name::text WHEN 'ARRAY'::text THEN udt_name::text ELSE data_type::text
        END,
        '('::text || coalesce(character_maximum_length, numeric_precision)::text || ')'::text
    ) AS type,
    is_nullable::text = 'YES'::text AS nullable,
    column_default::text AS default_text,
    pg_catalog.col_description('public.claude_sessions'::regclass::oid, ordinal_position::integer) AS description
FROM information_schema.columns
WHERE table_schema::text = 'public'::text AND table_name::text = 'claude_sessions'::text
ORDER BY ordinal_position;
