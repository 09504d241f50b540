-- List the ids of the sessions that reap judges at any time, after one of them.
-- Parameters: after (uuid), row_limit (bigint). Returns: id, in its order.
SELECT id
FROM ({reapable}) AS found
WHERE id > %(after)s::uuid
ORDER BY id
LIMIT %(row_limit)s::bigint;
