-- claimable_jobs as revision 0001 made it.
CREATE FUNCTION claimable_jobs(p_limit integer) RETURNS TABLE (job_id uuid, department_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT first.id, first.department_id
    FROM departments d
    CROSS JOIN LATERAL (
        SELECT j.id, j.department_id, row_number() OVER (ORDER BY j.id) AS place
        FROM jobs j WHERE j.department_id = d.id AND j.state = 'queued' ORDER BY j.id LIMIT p_limit
    ) first
    ORDER BY first.place, d.served_at NULLS FIRST, first.id
    LIMIT p_limit
$$;
REVOKE ALL ON FUNCTION claimable_jobs(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION claimable_jobs(integer) TO tsugiki_app;
GRANT CREATE ON SCHEMA public TO tsugiki_definer;
ALTER FUNCTION claimable_jobs(integer) OWNER TO tsugiki_definer;
REVOKE CREATE ON SCHEMA public FROM tsugiki_definer;
