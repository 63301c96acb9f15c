-- Who makes room for whom, by the memory of workers as well.

-- Running jobs that should give their device to a more urgent one of their department: where the department lets them, the
-- urgent one has waited p_after_s seconds, it is its turn, and the worker of the running one would take it. The turn is
-- among jobs that some worker takes; where none is registered, all do. Where the department runs as many as it may it is
-- its turn at once: only its own jobs are in the way. One at a time for each department.
CREATE OR REPLACE FUNCTION preemptable_jobs(p_after_s double precision, p_half_life_s double precision)
    RETURNS TABLE (job_id uuid, department_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH held AS (
        SELECT l.department_id, count(*) AS jobs FROM leases l WHERE l.ended_at IS NULL GROUP BY l.department_id
    ), placed AS (
        SELECT j.id, j.department_id, j.priority FROM jobs j
        WHERE j.state = 'queued' AND (
            NOT EXISTS (SELECT FROM workers w WHERE w.state <> 'retired')
            OR EXISTS (
                SELECT FROM workers w
                WHERE w.state = 'active' AND fits(j.memory_bytes, w.memory_bytes, w.weight_bits)
            )
        )
    ), turn AS (
        (
            SELECT c.job_id
            FROM claimable_jobs(NULL, p_half_life_s) WITH ORDINALITY AS c (job_id, department_id, place)
            JOIN placed p ON p.id = c.job_id
            ORDER BY c.place LIMIT 1
        )
        UNION
        SELECT own.id
        FROM departments d JOIN held ON held.department_id = d.id AND held.jobs >= d.max_running_jobs
        CROSS JOIN LATERAL (
            SELECT p.id FROM placed p WHERE p.department_id = d.id ORDER BY p.priority DESC, p.id LIMIT 1
        ) own
    )
    SELECT least_urgent.id, d.id
    FROM turn
    JOIN jobs urgent ON urgent.id = turn.job_id AND urgent.queued_at <= now() - make_interval(secs => p_after_s)
    JOIN departments d ON d.id = urgent.department_id AND d.preempts
    CROSS JOIN LATERAL (
        SELECT j.id
        FROM jobs j JOIN leases l ON l.id = j.lease_id LEFT JOIN workers w ON w.id = l.worker_id
        WHERE j.department_id = d.id AND j.state = 'running' AND j.priority < urgent.priority
            AND j.cancel_requested_at IS NULL AND j.pause_requested_at IS NULL
            AND (
                l.worker_id IS NULL
                OR w.state = 'active' AND fits(urgent.memory_bytes, w.memory_bytes, w.weight_bits)
            )
        ORDER BY j.priority, j.started_at DESC LIMIT 1
    ) least_urgent
    WHERE NOT EXISTS (
        SELECT FROM jobs j
        WHERE j.department_id = d.id AND j.state = 'running' AND j.preempt_requested_at IS NOT NULL
    )
$$;
