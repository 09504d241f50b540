-- Whether a session is over: it has ended, or fell silent and holds nothing; for the latter in the words of its index.
-- Part of other queries. Parameters: status (text: released or stale).
    status = %(status)s::text
        AND (%(status)s::text = 'released' OR status = 'released' OR (status = 'stale' AND sd_id IS NULL))
