-- Who may reach the rows of revision 0022, as 0001_access.sql says it of the others.

ALTER TABLE file_erasures ENABLE ROW LEVEL SECURITY;
ALTER TABLE file_erasures FORCE ROW LEVEL SECURITY;
CREATE POLICY department ON file_erasures TO tsugiki_app
    USING (department_id = current_department()) WITH CHECK (department_id = current_department());
-- For the erasing of a closed department: revision 0014. And for the function below.
CREATE POLICY across ON file_erasures TO tsugiki_definer USING (true) WITH CHECK (true);
GRANT SELECT, DELETE ON file_erasures TO tsugiki_definer;

GRANT SELECT, INSERT ON file_erasures TO tsugiki_app;
-- Who asked, for what, and why stays as it was said.
GRANT UPDATE (state, confirmed_by, confirmed_human, confirmed_at, plan, result, ended_at) ON file_erasures TO tsugiki_app;

-- Erasures that two people agreed to and that are not done.
CREATE FUNCTION erasures_under_way() RETURNS TABLE (erasure_id uuid, department_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT e.id, e.department_id FROM file_erasures e WHERE e.state = 'erasing' ORDER BY e.id
$$;

REVOKE ALL ON FUNCTION erasures_under_way() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION erasures_under_way() TO tsugiki_app;
ALTER FUNCTION erasures_under_way() OWNER TO tsugiki_definer;
