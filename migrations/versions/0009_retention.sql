-- Who may reach the rows of revision 0009, as 0001_access.sql says it of the others.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['erasures', 'storage_sweeps'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY department ON %I TO tsugiki_app USING (department_id = current_department()) '
            'WITH CHECK (department_id = current_department())', name
        );
        EXECUTE format('GRANT SELECT, INSERT ON %I TO tsugiki_app', name);
    END LOOP;
END $$;

GRANT UPDATE (ends_at), DELETE ON erasures TO tsugiki_app;
GRANT UPDATE (due_at, swept_to) ON storage_sweeps TO tsugiki_app;
GRANT UPDATE (erased_at) ON job_checkpoints TO tsugiki_app;
GRANT UPDATE (damaged_at) ON adapter_versions TO tsugiki_app;

CREATE POLICY across ON storage_sweeps TO tsugiki_definer USING (true) WITH CHECK (true);
GRANT SELECT ON storage_sweeps TO tsugiki_definer;

-- Departments whose part of the object store it is time to look at: the longest overdue first.
CREATE FUNCTION storage_sweeps_due(p_limit integer) RETURNS TABLE (department_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT d.id FROM departments d LEFT JOIN storage_sweeps s ON s.department_id = d.id
    WHERE s.due_at IS NULL OR s.due_at <= now()
    ORDER BY s.due_at NULLS FIRST, d.id
    LIMIT p_limit
$$;

REVOKE ALL ON FUNCTION storage_sweeps_due(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION storage_sweeps_due(integer) TO tsugiki_app;
ALTER FUNCTION storage_sweeps_due(integer) OWNER TO tsugiki_definer;
