-- Who may reach the rows of revision 0015, as 0001_access.sql says it of the others.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['deployments', 'downloads'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY department ON %I TO tsugiki_app USING (department_id = current_department()) '
            'WITH CHECK (department_id = current_department())', name
        );
        -- For the erasing of a closed department: revision 0014.
        EXECUTE format('CREATE POLICY across ON %I TO tsugiki_definer USING (true) WITH CHECK (true)', name);
        EXECUTE format('GRANT SELECT, DELETE ON %I TO tsugiki_definer', name);
        EXECUTE format('GRANT SELECT, INSERT ON %I TO tsugiki_app', name);
    END LOOP;
END $$;

GRANT UPDATE (times, last_at) ON downloads TO tsugiki_app;
GRANT UPDATE (state, reported_by, since, reported_at) ON deployments TO tsugiki_app;
