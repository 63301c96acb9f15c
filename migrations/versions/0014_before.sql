-- The functions that 0014_closing.sql replaced, as they were before.
CREATE OR REPLACE FUNCTION storage_sweeps_due(p_limit integer) RETURNS TABLE (department_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT d.id FROM departments d LEFT JOIN storage_sweeps s ON s.department_id = d.id
    WHERE s.due_at IS NULL OR s.due_at <= now()
    ORDER BY s.due_at NULLS FIRST, d.id
    LIMIT p_limit
$$;

CREATE OR REPLACE FUNCTION departments_to_sample() RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT d.id FROM departments d WHERE NOT EXISTS (
        SELECT FROM storage_samples s WHERE s.department_id = d.id AND s.day = (now() AT TIME ZONE 'UTC')::date)
$$;

CREATE OR REPLACE FUNCTION keep_an_admin() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF 'department_admin' = ANY(OLD.roles)
        AND NOT EXISTS (SELECT FROM memberships
            WHERE department_id = OLD.department_id AND 'department_admin' = ANY(roles)) THEN
        RAISE EXCEPTION 'the department would be left without an admin'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'last_admin';
    END IF;
    RETURN NULL;
END $$;
