-- Who may reach estimates and inspections, and what is told across departments of speeds, queues and errors.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['estimates', 'inspections'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY department ON %I TO tsugiki_app USING (department_id = current_department())'
            ' WITH CHECK (department_id = current_department())', name
        );
        EXECUTE format('CREATE POLICY across ON %I TO tsugiki_definer USING (true) WITH CHECK (true)', name);
        EXECUTE format('GRANT SELECT, INSERT ON %I TO tsugiki_app', name);
        EXECUTE format('GRANT SELECT, DELETE ON %I TO tsugiki_definer', name);
    END LOOP;
END $$;

GRANT UPDATE (error) ON estimates TO tsugiki_app;
GRANT UPDATE (report, created_at) ON inspections TO tsugiki_app;
GRANT UPDATE (nudged_at) ON estimates TO tsugiki_definer;

-- --- functions that reach across departments -----------------------------------------------------------------------

-- Which department a queue message's estimate belongs to.
CREATE FUNCTION estimate_department(p_estimate uuid) RETURNS uuid
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
    AS $$ SELECT department_id FROM estimates WHERE id = p_estimate $$;

-- Estimates whose rows are still to be counted and that were not rung for lately; from now they count as rung for.
CREATE FUNCTION estimates_to_nudge(p_older_than_s double precision) RETURNS SETOF uuid
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE estimates SET nudged_at = now()
    WHERE error IS NULL AND expires_at > now() AND nudged_at < now() - make_interval(secs => p_older_than_s)
        AND NOT EXISTS (
            SELECT FROM inspections i
            WHERE i.department_id = estimates.department_id AND i.key = estimates.inspection_key
        )
    RETURNING id
$$;

-- Remove estimates whose time is over, and inspections older than this. How many.
CREATE FUNCTION forget_estimates(p_inspections_older_than_s double precision) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH asked AS (
        DELETE FROM estimates WHERE expires_at < now() RETURNING 1
    ), counted AS (
        DELETE FROM inspections WHERE created_at < now() - make_interval(secs => p_inspections_older_than_s) RETURNING 1
    )
    SELECT (SELECT count(*) FROM asked) + (SELECT count(*) FROM counted)
$$;

-- What the newest runs on a base model measured, of whichever department: medians, of memory the most, of prices the
-- newest, and no run. The same kind of method comes first, then runs alone in their process, then the device used last.
CREATE FUNCTION measured_speeds(p_base_model uuid, p_general boolean, p_runs integer) RETURNS TABLE (
    device text, ranks integer, same_method boolean, alone boolean, runs bigint, tokens_per_s double precision,
    overhead_s double precision, peak_memory_bytes bigint, price_per_gpu_hour numeric
) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH measured AS (
        SELECT j.finished_at, j.actual ->> 'device' AS device, (j.actual ->> 'ranks')::integer AS ranks,
            (j.actual ->> 'general')::boolean = p_general AS same_method,
            (j.actual ->> 'alone')::boolean AS alone,
            (j.actual ->> 'tokens_per_s')::double precision AS tokens_per_s,
            (j.actual ->> 'overhead_s')::double precision AS overhead_s,
            (j.actual ->> 'peak_memory_bytes')::bigint AS peak_memory_bytes,
            (j.actual ->> 'price_per_gpu_hour')::numeric AS price_per_gpu_hour
        FROM jobs j WHERE j.base_model_id = p_base_model AND j.actual IS NOT NULL
        ORDER BY j.finished_at DESC LIMIT 20 * p_runs
    ), placed AS (
        SELECT *, row_number() OVER (PARTITION BY device, ranks, same_method, alone ORDER BY finished_at DESC) AS place
        FROM measured WHERE tokens_per_s > 0
    )
    SELECT device, ranks, same_method, alone, count(*), percentile_cont(0.5) WITHIN GROUP (ORDER BY tokens_per_s),
        percentile_cont(0.5) WITHIN GROUP (ORDER BY overhead_s), max(peak_memory_bytes),
        (array_agg(price_per_gpu_hour ORDER BY place))[1]
    FROM placed WHERE place <= p_runs
    GROUP BY device, ranks, same_method, alone HAVING count(overhead_s) > 0
    ORDER BY same_method DESC, alone DESC, max(finished_at) DESC
$$;

-- Seconds of devices that each department used of late, which count for half after every half-life, and those that it holds:
-- domain.fair_share.Standing.device_s. For functions that reach across departments; nobody else may call it.
CREATE FUNCTION devices_used(p_half_life_s double precision) RETURNS TABLE (department_id uuid, device_s double precision)
    LANGUAGE sql STABLE AS $$
    SELECT l.department_id, sum(
        CASE
            -- One that is claimed at this moment counts for a while already: claims that follow each other see each other.
            WHEN l.ended_at IS NULL THEN greatest(extract(epoch FROM now() - l.acquired_at), 60)
            -- One that ends in the transaction that asks may end a moment after the transaction's time.
            ELSE extract(epoch FROM l.ended_at - l.acquired_at)
                * power(0.5, greatest(extract(epoch FROM now() - l.ended_at), 0) / p_half_life_s)
        END * l.ranks / l.shared_by
    )
    FROM leases l
    -- After ten half-lives a thousandth is left.
    WHERE l.ended_at IS NULL OR l.ended_at > now() - make_interval(secs => 10 * p_half_life_s)
    GROUP BY l.department_id
$$;
REVOKE ALL ON FUNCTION devices_used(double precision) FROM PUBLIC;
ALTER FUNCTION devices_used(double precision) OWNER TO tsugiki_definer;

-- What a new job of the session's department would wait for: how long each worker with jobs is thought to have them,
-- and each waiting job that comes before it to take, in no department's name; and whether the department runs as many
-- as it may. The order is that of claimable_jobs.
CREATE FUNCTION queue_ahead(p_priority integer, p_half_life_s double precision) RETURNS TABLE (
    running_s double precision[], ahead_s double precision[], is_held_back boolean
) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH used AS (
        SELECT * FROM devices_used(p_half_life_s)
    ), running AS (
        SELECT j.department_id, l.worker, coalesce(
            (j.progress ->> 'eta_s')::double precision,
            -- greatest takes a NULL for nothing.
            CASE WHEN j.estimate ->> 'seconds' IS NOT NULL THEN
                greatest(0, (j.estimate ->> 'seconds')::double precision - extract(epoch FROM now() - l.acquired_at))
            END
        ) AS left_s
        FROM jobs j JOIN leases l ON l.id = j.lease_id WHERE j.state = 'running'
    ), full_departments AS (
        SELECT d.id FROM departments d
        WHERE d.max_running_jobs <= (SELECT count(*) FROM running r WHERE r.department_id = d.id)
    ), waiting AS (
        SELECT j.id, j.department_id, j.priority, (j.estimate ->> 'seconds')::double precision AS seconds,
            row_number() OVER (PARTITION BY j.department_id ORDER BY j.priority DESC, j.id) - 1 AS place
        FROM jobs j WHERE j.state IN ('validating_files', 'queued')
    ), own AS (
        SELECT count(*) AS place FROM waiting w
        WHERE w.department_id = current_department() AND w.priority >= p_priority
    ), turns AS (
        SELECT w.id, w.department_id, w.seconds, w.department_id = current_department() AS is_own, w.place, d.served_at,
            (coalesce(u.device_s, 0) + w.place * 60) / d.weight AS share
        FROM waiting w JOIN departments d ON d.id = w.department_id LEFT JOIN used u USING (department_id)
    ), turn AS (
        SELECT own.place, coalesce(d.served_at, '-infinity') AS served_at,
            (coalesce(u.device_s, 0) + own.place * 60) / d.weight AS share
        FROM departments d LEFT JOIN used u ON u.department_id = d.id CROSS JOIN own WHERE d.id = current_department()
    ), ahead AS (
        SELECT t.* FROM turns t CROSS JOIN turn
        WHERE CASE WHEN t.is_own THEN t.place < turn.place
            ELSE t.department_id NOT IN (SELECT id FROM full_departments)
                AND (t.share, coalesce(t.served_at, '-infinity')) <= (turn.share, turn.served_at) END
    )
    SELECT
        -- Of jobs that share a worker it is free after the last.
        ARRAY(SELECT CASE WHEN count(*) = count(left_s) THEN max(left_s) END FROM running GROUP BY worker),
        ARRAY(SELECT seconds FROM ahead ORDER BY share, served_at NULLS FIRST, id),
        current_department() IN (SELECT id FROM full_departments)
$$;

-- How far off estimates were, as a share of what came, over the newest 10,000 ended jobs of all departments.
CREATE FUNCTION estimate_accuracy() RETURNS TABLE (
    base_model_id uuid, device text, figure text, jobs bigint, median double precision, p90 double precision
) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH errors AS (
        SELECT j.base_model_id, j.actual ->> 'device' AS device, thought.key AS figure,
            abs(thought.value::text::double precision - came.number) / came.number AS error
        FROM (
            SELECT * FROM jobs WHERE actual IS NOT NULL AND estimate IS NOT NULL ORDER BY finished_at DESC LIMIT 10000
        ) j
        CROSS JOIN LATERAL jsonb_each(j.estimate) AS thought
        CROSS JOIN LATERAL (SELECT (j.actual ->> thought.key)::double precision AS number) AS came
        WHERE jsonb_typeof(thought.value) = 'number' AND came.number > 0
            AND thought.key IN ('seconds', 'gpu_seconds', 'trained_tokens', 'peak_memory_bytes', 'adapter_bytes')
    )
    SELECT base_model_id, device, figure, count(*), percentile_cont(0.5) WITHIN GROUP (ORDER BY error),
        percentile_cont(0.9) WITHIN GROUP (ORDER BY error)
    FROM errors GROUP BY base_model_id, device, figure ORDER BY base_model_id, device, figure
$$;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY[
        'estimate_department(uuid)', 'estimates_to_nudge(double precision)', 'forget_estimates(double precision)',
        'measured_speeds(uuid, boolean, integer)', 'queue_ahead(integer, double precision)', 'estimate_accuracy()'
    ] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO tsugiki_app', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO tsugiki_definer', signature);
    END LOOP;
END $$;
