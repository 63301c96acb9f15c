-- preemptable_jobs as revision 0008 made it.
CREATE OR REPLACE FUNCTION preemptable_jobs(p_after_s double precision, p_half_life_s double precision)
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
