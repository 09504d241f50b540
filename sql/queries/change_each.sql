-- Run a statement for each of many items in a subtransaction of its own, so that the table may refuse some of them.
-- Deferred constraints are checked with each row. An error that no row causes, such as a deadlock, aborts it whole.
-- Parameters: none; give_change has set them. Returns: nothing; see read_outcome.
DO $$
DECLARE
    change text := pg_catalog.current_setting('claude_sessions.change');
    outcomes jsonb[] := ARRAY[]::jsonb[];
    item text;
    place bigint;
    changed record;
BEGIN
    SET CONSTRAINTS ALL IMMEDIATE;
    FOR item, place IN
        SELECT listed.value, listed.number
        FROM pg_catalog.jsonb_array_elements_text(pg_catalog.current_setting('claude_sessions.items')::jsonb)
            WITH ORDINALITY AS listed (value, number)
    LOOP
        BEGIN
            FOR changed IN EXECUTE change USING item LOOP
                outcomes := pg_catalog.array_append(outcomes, pg_catalog.jsonb_build_object(
                    'place', place, 'row_id', changed.row_id, 'is_written', changed.is_written
                ));
            END LOOP;
        EXCEPTION WHEN assert_failure OR OTHERS THEN
            IF pg_catalog.left(SQLSTATE, 2) IN ('08', '25', '40', '53', '57', '58') OR SQLSTATE = '55P03' THEN
                RAISE;
            END IF;
            outcomes := pg_catalog.array_append(outcomes, pg_catalog.jsonb_build_object(
                'place', place, 'is_written', false, 'reason', SQLERRM, 'state', SQLSTATE
            ));
        END;
    END LOOP;
    PERFORM pg_catalog.set_config('claude_sessions.outcomes', pg_catalog.array_to_json(outcomes)::text, true);
END
$$;
