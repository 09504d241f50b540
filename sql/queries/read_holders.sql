-- Read a session, and every holder of a work item and of the item that the session holds, in any form of its name:
-- other programs can give an item to two.
-- Parameters: session_id (text), forms (text[]: those of the item's name; NULL: the item of the session alone), now.
-- Returns: sessions.
-- Postgres knows the forms of a name in UTF-8 alone; other encodings have hardly a name of two forms.
SELECT {session_columns}
FROM public.claude_sessions
WHERE id = ANY(ARRAY(
    SELECT id FROM public.claude_sessions WHERE session_id = %(session_id)s::text
    UNION ALL
    SELECT id FROM public.claude_sessions WHERE sd_id = ANY(%(forms)s::text[]) AND status IS DISTINCT FROM 'released'
    UNION ALL
    SELECT held.id
    FROM public.claude_sessions AS own
    INNER JOIN public.claude_sessions AS held ON held.sd_id = ANY(ARRAY[
        own.sd_id,
        CASE WHEN pg_catalog.getdatabaseencoding() = 'UTF8' THEN pg_catalog.normalize(own.sd_id, 'NFC'::text) END,
        CASE WHEN pg_catalog.getdatabaseencoding() = 'UTF8' THEN pg_catalog.normalize(own.sd_id, 'NFD'::text) END
    ])
    WHERE own.session_id = %(session_id)s::text AND held.status IS DISTINCT FROM 'released'
));
