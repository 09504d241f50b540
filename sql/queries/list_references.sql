-- List the foreign keys that refer to sessions, and those through which deleting a session writes further tables.
-- Parameters: none. Returns: table_name, on_delete (a letter of pg_constraint.confdeltype), through (the table between,
-- NULL for a key to sessions), is_readable (whether this role sees all of its rows), probe (a statement that returns
-- the sessions of the array $1 to which the table refers; NULL with a table between).
WITH RECURSIVE keys AS (
    SELECT oid AS key_id, conrelid, confrelid, confdeltype, ARRAY[conrelid] AS path
    FROM pg_catalog.pg_constraint
    WHERE contype = 'f' AND conparentid = 0::oid AND confrelid = 'public.claude_sessions'::regclass::oid
    UNION ALL
    SELECT further.oid, further.conrelid, further.confrelid, further.confdeltype,
        pg_catalog.array_append(keys.path, further.conrelid)
    FROM keys
    INNER JOIN pg_catalog.pg_constraint AS further ON further.confrelid = keys.conrelid
    WHERE further.contype = 'f' AND further.conparentid = 0::oid AND keys.confdeltype = 'c'
        AND further.confdeltype IN ('c', 'n', 'd')
        AND keys.conrelid <> 'public.claude_sessions'::regclass::oid
        AND NOT further.conrelid OPERATOR(pg_catalog.=) ANY(keys.path)
)
SELECT
    pg_catalog.format('%I.%I'::text, space.nspname, referring.relname) AS table_name,
    keys.confdeltype::text AS on_delete,
    CASE
        WHEN keys.confrelid <> 'public.claude_sessions'::regclass::oid
            THEN pg_catalog.format('%I.%I'::text, between_space.nspname, between_table.relname)
    END AS through,
    pg_catalog.has_schema_privilege(space.oid, 'USAGE'::text)
    AND pg_catalog.has_table_privilege(referring.oid, 'SELECT'::text)
    AND NOT pg_catalog.row_security_active(referring.oid) AS is_readable,
    CASE
        WHEN keys.confrelid = 'public.claude_sessions'::regclass::oid
            THEN pg_catalog.format(
                'SELECT s.id AS row_id, true AS is_written FROM public.claude_sessions AS s'
                ' WHERE s.id OPERATOR(pg_catalog.=) ANY($1::uuid[])'
                ' AND EXISTS (SELECT FROM %s%I.%I AS r WHERE %s)'::text,
                CASE WHEN referring.relkind = 'p' THEN '' ELSE 'ONLY ' END, space.nspname, referring.relname,
                (
                    SELECT pg_catalog.string_agg(
                        pg_catalog.format(
                            's.%I OPERATOR(%I.%s) r.%I'::text,
                            own.attname, operator_space.nspname, operator.oprname, other.attname
                        ),
                        ' AND '::text
                    )
                    FROM pg_catalog.pg_constraint AS key
                    CROSS JOIN LATERAL ROWS FROM (
                        pg_catalog.unnest(key.confkey), pg_catalog.unnest(key.conkey), pg_catalog.unnest(key.conpfeqop)
                    ) AS columns (own_number, other_number, operator_id)
                    INNER JOIN pg_catalog.pg_attribute AS own
                        ON own.attrelid = key.confrelid AND own.attnum = columns.own_number
                    INNER JOIN pg_catalog.pg_attribute AS other
                        ON other.attrelid = key.conrelid AND other.attnum = columns.other_number
                    INNER JOIN pg_catalog.pg_operator AS operator ON operator.oid = columns.operator_id
                    INNER JOIN pg_catalog.pg_namespace AS operator_space ON operator_space.oid = operator.oprnamespace
                    WHERE key.oid = keys.key_id
                )
            )
    END AS probe
FROM keys
INNER JOIN pg_catalog.pg_class AS referring ON referring.oid = keys.conrelid
INNER JOIN pg_catalog.pg_namespace AS space ON space.oid = referring.relnamespace
INNER JOIN pg_catalog.pg_class AS between_table ON between_table.oid = keys.confrelid
INNER JOIN pg_catalog.pg_namespace AS between_space ON between_space.oid = between_table.relnamespace
ORDER BY table_name, on_delete, through;
