-- The row that an UPDATE of a locked row wrote. Fails if it wrote none: a trigger of another program dropped it, and
-- nothing of this message may be committed.
-- Part of other queries, which provide `written`. Parameters: none.
SELECT *
FROM written
WHERE CASE
    WHEN EXISTS (SELECT FROM written) THEN true
    ELSE pg_catalog.concat('claude_sessions: not written for ', current_user)::boolean
END
