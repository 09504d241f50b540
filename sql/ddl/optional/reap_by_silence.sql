-- Reaping by silence alone, by pg_cron or psql -c, for a fleet in which no host has a timer. It knows no processes: a
-- session whose process lives, but sends no heartbeat, loses its claim as to a reap on another host.
-- Each minute: SELECT cron.schedule('reap', '* * * * *', 'SELECT public.claude_sessions_reap_by_silence()');

-- Not SECURITY DEFINER: it writes what its caller may write. The caller's search_path stays in force, because triggers
-- of other programs may rely on it; but names of the system come before names that somebody else may create.
CREATE OR REPLACE FUNCTION public.claude_sessions_reap_by_silence(
    stale_after interval DEFAULT '15 minutes',
    row_limit bigint DEFAULT 1000,
    moment timestamp with time zone DEFAULT NULL
) RETURNS TABLE (reaped_session pg_catalog.text, reaped_item pg_catalog.text, new_status pg_catalog.text)
LANGUAGE plpgsql
AS $body$
DECLARE
    caller_path pg_catalog.text := pg_catalog.current_setting('search_path');
    clock timestamp with time zone := coalesce(moment, pg_catalog.clock_timestamp());
    one public.claude_sessions;
    own pg_catalog.jsonb;
    given pg_catalog.jsonb;
    patience_s numeric;
    given_s numeric;
    last_sign timestamp with time zone;
    parked_until timestamp with time zone;
    told pg_catalog.text;
    done bigint := 0;
BEGIN
    PERFORM pg_catalog.set_config('search_path', pg_catalog.concat('pg_catalog',
        CASE WHEN caller_path OPERATOR(pg_catalog.<>) ''::pg_catalog.text
            THEN pg_catalog.concat(', ', caller_path) END), true);
    given_s := EXTRACT(EPOCH FROM stale_after);
    IF given_s IS NULL OR given_s < 60::numeric OR given_s > 604800::numeric THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'stale_after is at least 1 minute and at most 7 days',
            HINT = 'name the unit: claude_sessions_reap_by_silence(''15 minutes'')';
    END IF;

    -- Heartbeats in the future came from wrong clocks. They are set to now, so that they can age.
    FOR one IN
        SELECT s.*
        FROM public.claude_sessions AS s
        WHERE s.heartbeat_at > clock AND (
            s.status IN ('active', 'idle') OR s.status IS NULL OR (s.status = 'stale' AND s.sd_id IS NOT NULL)
            OR (s.status = 'stale' AND s.sd_id IS NULL AND s.updated_at IS NULL)
            OR (s.status = 'stale' AND s.sd_id IS NULL AND s.updated_at < clock - pg_catalog.make_interval(days => 1))
        )
        ORDER BY s.id
        FOR UPDATE SKIP LOCKED
    LOOP
        BEGIN
            UPDATE public.claude_sessions AS s SET heartbeat_at = clock WHERE s.id = one.id;
        EXCEPTION WHEN assert_failure OR OTHERS THEN
            IF pg_catalog.left(SQLSTATE, 2) IN ('08', '25', '40', '53', '57', '58') OR SQLSTATE = '55P03' THEN
                RAISE;
            END IF;
            RAISE WARNING 'refused %: %', one.session_id, SQLERRM;
        END;
    END LOOP;

    FOR one IN
        SELECT s.*
        FROM public.claude_sessions AS s
        WHERE (
                s.status IN ('active', 'idle') OR s.status IS NULL OR (s.status = 'stale' AND s.sd_id IS NOT NULL)
                OR (s.status = 'stale' AND s.sd_id IS NULL AND s.updated_at IS NULL)
                OR (
                    s.status = 'stale' AND s.sd_id IS NULL AND s.updated_at < clock - pg_catalog.make_interval(days => 1)
                )
            )
            AND coalesce(s.heartbeat_at, s.claimed_at, s.created_at, pg_catalog.to_timestamp(0))
                < clock - pg_catalog.make_interval(secs => least(given_s, 86400::numeric)::float8)
        ORDER BY s.id
        FOR UPDATE SKIP LOCKED
    LOOP
        EXIT WHEN done >= row_limit;
        last_sign := coalesce(one.heartbeat_at, one.claimed_at, one.created_at, pg_catalog.to_timestamp(0));
        own := CASE WHEN pg_catalog.jsonb_typeof(one.metadata -> 'claude_sessions_cli'::text) = 'object'::text
            THEN one.metadata -> 'claude_sessions_cli'::text ELSE '{}'::jsonb END;
        -- The greater of the holder's recorded setting and the caller's own.
        patience_s := greatest(given_s, CASE WHEN pg_catalog.jsonb_typeof(own -> 'stale_after'::text) = 'number'::text
            THEN least((own ->> 'stale_after'::text)::numeric, 604800::numeric) END);

        -- Other programs may write anything here.
        parked_until := NULL;
        told := own ->> 'parked_until'::text;
        IF pg_catalog.textregexeq(told, '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?$'::text) THEN
            BEGIN
                parked_until := CASE WHEN pg_catalog.textregexeq(told, '(Z|[+-]\d\d:\d\d)$'::text) THEN told
                    ELSE pg_catalog.concat(told, 'Z') END::timestamp with time zone;
            EXCEPTION WHEN data_exception THEN
                parked_until := NULL;
            END;
        END IF;
        IF parked_until > least(last_sign, clock) + pg_catalog.make_interval(mins => 45) THEN
            parked_until := least(last_sign, clock) + pg_catalog.make_interval(mins => 45);
        END IF;

        IF one.status IS DISTINCT FROM 'stale' OR one.sd_id IS NOT NULL THEN
            CONTINUE WHEN last_sign >= clock - pg_catalog.make_interval(secs => patience_s::float8);
            CONTINUE WHEN parked_until > clock;
            new_status := 'stale';
        ELSE
            CONTINUE WHEN greatest(last_sign, one.updated_at) >= clock - pg_catalog.make_interval(days => 1);
            new_status := 'released';
        END IF;

        given := '{"parked_until": null, "note": null, "run": null, "tombstone": null}'::jsonb;
        IF one.sd_id IS NOT NULL THEN
            given := given || pg_catalog.jsonb_build_object('term', NULL, 'tombstone', pg_catalog.jsonb_build_object(
                'sd_id', one.sd_id,
                'track', one.track,
                'reason', 'silent',
                'at', pg_catalog.concat(
                    pg_catalog.to_char(clock AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS'::text),
                    CASE WHEN pg_catalog.to_char(clock, 'US'::text) <> '000000'::text
                        THEN pg_catalog.to_char(clock, '.US'::text) END,
                    'Z'
                ),
                'fence', CASE WHEN one.claimed_at >= pg_catalog.to_timestamp(0)
                    AND one.claimed_at <= '9999-01-01 00:00:00Z'::timestamp with time zone
                    THEN (EXTRACT(EPOCH FROM one.claimed_at)::numeric * 1000000::numeric)::bigint END
            ));
        ELSIF pg_catalog.jsonb_typeof(own #> '{tombstone,sd_id}'::text[]) = 'string'::text THEN
            given := given || pg_catalog.jsonb_build_object('tombstone', own -> 'tombstone'::text);
        END IF;

        BEGIN
            UPDATE public.claude_sessions AS s SET
                sd_id = NULL,
                track = NULL,
                claimed_at = NULL,
                status = new_status,
                metadata = CASE WHEN pg_catalog.jsonb_typeof(coalesce(s.metadata, '{}'::jsonb)) = 'object'::text
                    THEN coalesce(s.metadata, '{}'::jsonb) || pg_catalog.jsonb_build_object(
                        'claude_sessions_cli', pg_catalog.jsonb_strip_nulls(own || given)
                    )
                    ELSE s.metadata END,
                updated_at = clock
            WHERE s.id = one.id;
            IF FOUND THEN
                reaped_session := one.session_id;
                reaped_item := one.sd_id;
                done := done + 1;
                RETURN NEXT;
            ELSE
                RAISE WARNING 'refused % %: a trigger of the table dropped the change', one.session_id, one.sd_id;
            END IF;
        EXCEPTION WHEN assert_failure OR OTHERS THEN
            IF pg_catalog.left(SQLSTATE, 2) IN ('08', '25', '40', '53', '57', '58') OR SQLSTATE = '55P03' THEN
                RAISE;
            END IF;
            RAISE WARNING 'refused % %: %', one.session_id, one.sd_id, SQLERRM;
        END;
    END LOOP;
    PERFORM pg_catalog.set_config('search_path', caller_path, true);
END
$body$;

REVOKE ALL ON FUNCTION public.claude_sessions_reap_by_silence(interval, bigint, timestamp with time zone)
FROM PUBLIC, anon, authenticated;
