-- Who reaches the registry of workers, and the functions that claims and waiting jobs ask. Run after revision 0008's tables.

ALTER TABLE workers OWNER TO tsugiki_owner;
GRANT SELECT, INSERT ON workers TO tsugiki_app;
GRANT UPDATE (
    state, precision, device, weight_bits, calibration, seen_at, release_asked_at, retire_asked_at, retired_at
) ON workers TO tsugiki_app;
GRANT SELECT ON workers TO tsugiki_definer;

-- Whether a worker has the memory that a job needs, which is told for a base in 16 bits. What is not known fits.
-- The same as domain.workers.fits.
CREATE FUNCTION fits(p_needed_bytes bigint, p_memory_bytes bigint, p_weight_bits integer) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT coalesce(p_needed_bytes <= p_memory_bytes * 16 / p_weight_bits, true) $$;

-- Queued jobs in the order in which workers should take them: domain/fair_share.py says the same in Python.
--
-- A department's own by priority, then by age. Between departments by what each used of late, and uses now, for its weight.
-- One that runs as many as it may has none. For a registered worker only those jobs that it may take; for nobody (NULL) all.
DROP FUNCTION claimable_jobs(integer, double precision);
CREATE FUNCTION claimable_jobs(p_limit integer, p_half_life_s double precision, p_worker uuid DEFAULT NULL)
    RETURNS TABLE (job_id uuid, department_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT own.id, d.id
    FROM departments d
    LEFT JOIN devices_used(p_half_life_s) used ON used.department_id = d.id
    CROSS JOIN LATERAL (
        SELECT j.id, row_number() OVER (ORDER BY j.priority DESC, j.id) - 1 AS place
        FROM jobs j LEFT JOIN workers w ON w.id = p_worker
        WHERE j.department_id = d.id AND j.state = 'queued'
            AND (p_worker IS NULL OR w.state = 'active' AND fits(j.memory_bytes, w.memory_bytes, w.weight_bits))
        ORDER BY j.priority DESC, j.id LIMIT p_limit
    ) own
    WHERE d.max_running_jobs IS NULL OR d.max_running_jobs > (
        SELECT count(*) FROM leases l WHERE l.department_id = d.id AND l.ended_at IS NULL)
    ORDER BY
        (coalesce(used.device_s, 0) + own.place * 60) / d.weight, d.served_at NULLS FIRST, own.id
    LIMIT p_limit
$$;

-- Running jobs that should give their device to a more urgent one of their department: where the department lets them, the
-- urgent one has waited p_after_s seconds, and it is its turn. Where the department runs as many as it may it is its turn
-- at once: only its own jobs are in the way. One at a time for each department.
CREATE FUNCTION preemptable_jobs(p_after_s double precision, p_half_life_s double precision)
    RETURNS TABLE (job_id uuid, department_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH held AS (
        SELECT l.department_id, count(*) AS jobs FROM leases l WHERE l.ended_at IS NULL GROUP BY l.department_id
    ), turn AS (
        SELECT c.job_id FROM claimable_jobs(1, p_half_life_s) c
        UNION
        SELECT own.id
        FROM departments d JOIN held ON held.department_id = d.id AND held.jobs >= d.max_running_jobs
        CROSS JOIN LATERAL (
            SELECT j.id FROM jobs j WHERE j.department_id = d.id AND j.state = 'queued'
            ORDER BY j.priority DESC, j.id LIMIT 1
        ) own
    )
    SELECT least_urgent.id, d.id
    FROM turn
    JOIN jobs urgent ON urgent.id = turn.job_id AND urgent.queued_at <= now() - make_interval(secs => p_after_s)
    JOIN departments d ON d.id = urgent.department_id AND d.preempts
    CROSS JOIN LATERAL (
        SELECT j.id FROM jobs j
        WHERE j.department_id = d.id AND j.state = 'running' AND j.priority < urgent.priority
            AND j.cancel_requested_at IS NULL AND j.pause_requested_at IS NULL
        ORDER BY j.priority, j.started_at DESC LIMIT 1
    ) least_urgent
    WHERE NOT EXISTS (
        SELECT FROM jobs j
        WHERE j.department_id = d.id AND j.state = 'running' AND j.preempt_requested_at IS NOT NULL
    )
$$;

-- The places of some queued jobs in that order, from 1: how many are before them, of whichever department.
CREATE FUNCTION queue_positions(p_jobs uuid[], p_half_life_s double precision)
    RETURNS TABLE (job_id uuid, place bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT o.job_id, o.place
    FROM claimable_jobs(NULL, p_half_life_s) WITH ORDINALITY AS o (job_id, department_id, place)
    WHERE o.job_id = ANY (p_jobs)
$$;

-- Workers that hold a lease.
CREATE FUNCTION busy_workers() RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
    AS $$ SELECT DISTINCT worker_id FROM leases WHERE ended_at IS NULL AND worker_id IS NOT NULL $$;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY[
        'claimable_jobs(integer, double precision, uuid)', 'preemptable_jobs(double precision, double precision)',
        'queue_positions(uuid[], double precision)', 'busy_workers()'
    ] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO tsugiki_app', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO tsugiki_definer', signature);
    END LOOP;
END $$;
