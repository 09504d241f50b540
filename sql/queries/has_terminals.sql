-- Whether the table has the columns terminal_id and machine_id, as later forms of it do, and this role may fill them.
-- Part of other queries. Parameters: none.
    2::bigint = (
        SELECT pg_catalog.count(*)
        FROM pg_catalog.pg_attribute
        WHERE attrelid = 'public.claude_sessions'::regclass::oid
            AND attname IN ('terminal_id'::name, 'machine_id'::name)
            AND atttypid IN ('text'::regtype::oid, 'varchar'::regtype::oid) AND attgenerated = ''::"char"
            AND pg_catalog.has_column_privilege(attrelid, attnum, 'INSERT'::text)
    )
