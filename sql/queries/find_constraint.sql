-- Describe the constraint or unique index that refused a row.
-- Parameters: schema_name, table_name, constraint_name (text). Returns: definition, columns (text[]: of a constraint),
-- refers_to (the other table of a foreign key); nothing if it is gone.
SELECT
    coalesce(
        pg_catalog.pg_get_constraintdef(pg_constraint.oid),
        pg_catalog.concat_ws(' WHERE ',
            pg_catalog.concat('(', (
                SELECT pg_catalog.string_agg(
                    pg_catalog.pg_get_indexdef(indexrelid, number, false), ', '::text ORDER BY number
                )
                FROM pg_catalog.generate_series(1, indnkeyatts::integer) AS keys (number)
            ), ')'),
            pg_catalog.pg_get_expr(indpred, indrelid)
        )
    ) AS definition,
    ARRAY(
        SELECT attname::text FROM pg_catalog.pg_attribute
        WHERE attrelid = conrelid AND attnum = ANY(conkey)
    ) AS columns,
    (
        SELECT pg_catalog.format('%I.%I'::text, nspname, relname)
        FROM pg_catalog.pg_class
        INNER JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        WHERE pg_class.oid = confrelid
    ) AS refers_to
FROM (
    SELECT pg_catalog.to_regclass(
        pg_catalog.format('%I.%I'::text, %(schema_name)s::text, %(table_name)s::text)
    )::oid AS table_id
) AS given
LEFT JOIN pg_catalog.pg_constraint ON conrelid = table_id AND conname = %(constraint_name)s::text::name
LEFT JOIN pg_catalog.pg_index ON indrelid = table_id AND EXISTS (
    SELECT FROM pg_catalog.pg_class WHERE pg_class.oid = indexrelid AND relname = %(constraint_name)s::text::name
)
WHERE pg_constraint.oid IS NOT NULL OR indexrelid IS NOT NULL;
