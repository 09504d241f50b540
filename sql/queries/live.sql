-- Whether a session lives or holds an item. Each branch is one that an index serves: IS DISTINCT FROM would read the whole
-- table.
-- Part of other queries. Parameters: none.
    (status IN ('active', 'idle') OR status IS NULL OR (status = 'stale' AND sd_id IS NOT NULL))
