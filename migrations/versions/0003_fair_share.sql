-- Queued jobs in the order in which workers should take them: domain/fair_share.py says the same in Python.
--
-- A department's own by priority, then by age. Between departments by what each used of late, and uses now, for its weight.
CREATE FUNCTION claimable_jobs(p_limit integer, p_half_life_s double precision)
    RETURNS TABLE (job_id uuid, department_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH used AS (
        SELECT l.department_id, sum(
            extract(epoch FROM l.ended_at - l.acquired_at) * l.ranks
            -- One that ends in the transaction that asks may end a moment after the transaction's time.
            * power(0.5, greatest(extract(epoch FROM now() - l.ended_at), 0) / p_half_life_s)
        ) AS device_s
        FROM leases l
        -- After ten half-lives a thousandth is left.
        WHERE l.ended_at > now() - make_interval(secs => 10 * p_half_life_s)
        GROUP BY l.department_id
    ), held AS (
        -- One that is claimed at this moment counts for a while already: claims that follow each other see each other.
        SELECT l.department_id, sum(greatest(extract(epoch FROM now() - l.acquired_at), 60) * l.ranks) AS device_s
        FROM leases l WHERE l.ended_at IS NULL GROUP BY l.department_id
    )
    SELECT own.id, d.id
    FROM departments d
    LEFT JOIN used ON used.department_id = d.id
    LEFT JOIN held ON held.department_id = d.id
    CROSS JOIN LATERAL (
        SELECT j.id, row_number() OVER (ORDER BY j.priority DESC, j.id) - 1 AS place
        FROM jobs j WHERE j.department_id = d.id AND j.state = 'queued' ORDER BY j.priority DESC, j.id LIMIT p_limit
    ) own
    ORDER BY
        (coalesce(used.device_s, 0) + coalesce(held.device_s, 0) + own.place * 60) / d.weight,
        d.served_at NULLS FIRST, own.id
    LIMIT p_limit
$$;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY[
        'claimable_jobs(integer, double precision)'
    ] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO tsugiki_app', signature);
        EXECUTE format('GRANT CREATE ON SCHEMA public TO tsugiki_definer');
        EXECUTE format('ALTER FUNCTION %s OWNER TO tsugiki_definer', signature);
        EXECUTE format('REVOKE CREATE ON SCHEMA public FROM tsugiki_definer');
    END LOOP;
END $$;
