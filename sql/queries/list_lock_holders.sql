-- List the connections that hold the advisory lock of a work item, which any role may take.
-- Parameters: sd_id (text). Returns: pid, role (NULL if it is hidden), program (NULL or empty if it is unknown).
SELECT held.pid, activity.usename::text AS role, activity.application_name AS program
FROM (SELECT pg_catalog.hashtext(%(sd_id)s::text)::bigint AS number) AS key
-- Two halves of a bigint, each without a sign.
JOIN pg_catalog.pg_locks AS held
    ON held.classid::bigint = CASE WHEN key.number < 0 THEN 4294967295 ELSE 0 END
    AND held.objid::bigint = CASE WHEN key.number < 0 THEN key.number + 4294967296 ELSE key.number END
    AND held.objsubid = 1
LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = held.pid
WHERE held.locktype = 'advisory'
    AND held.granted
    AND held.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database());
