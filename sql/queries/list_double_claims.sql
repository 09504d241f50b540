-- List work items that several sessions hold, in whatever form of its name: other programs do not normalise it.
-- Parameters: row_limit (bigint). Returns: sd_id (in NFC), sessions (text[]).
-- Postgres knows the forms of a name in UTF-8 alone; other encodings have hardly a name of two forms.
SELECT item.form AS sd_id, pg_catalog.array_agg(session_id::text ORDER BY claimed_at) AS sessions
FROM public.claude_sessions
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN pg_catalog.getdatabaseencoding() = 'UTF8' THEN pg_catalog.normalize(sd_id, 'NFC'::text)
        ELSE sd_id
    END AS form
) AS item
WHERE sd_id IS NOT NULL AND (status IN ('active', 'idle', 'stale') OR status IS NULL)
GROUP BY item.form
HAVING pg_catalog.count(*) > 1::bigint
ORDER BY item.form
LIMIT %(row_limit)s::bigint;
