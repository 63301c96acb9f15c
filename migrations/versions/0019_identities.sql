-- Who may reach the rows of revision 0019.

GRANT SELECT, INSERT ON identities TO tsugiki_app;

-- Where a person who has signed in has roles, and which: open departments alone.
CREATE FUNCTION memberships_of(p_user uuid) RETURNS TABLE (department_id uuid, roles text[])
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT m.department_id, m.roles FROM memberships m JOIN departments d ON d.id = m.department_id
    WHERE m.user_id = p_user AND cardinality(m.roles) > 0 AND d.closed_at IS NULL
$$;
REVOKE ALL ON FUNCTION memberships_of(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION memberships_of(uuid) TO tsugiki_app;
ALTER FUNCTION memberships_of(uuid) OWNER TO tsugiki_definer;

-- Departments that are closed are erased whole: also what came since revision 0014.
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT relname FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relforcerowsecurity AND relname NOT LIKE 'audit\_%'
    LOOP
        IF NOT EXISTS (SELECT FROM pg_policies WHERE tablename = name AND policyname = 'across') THEN
            EXECUTE format('CREATE POLICY across ON %I TO tsugiki_definer USING (true) WITH CHECK (true)', name);
        END IF;
        IF name <> 'departments' THEN
            EXECUTE format('GRANT SELECT, DELETE ON %I TO tsugiki_definer', name);
        END IF;
    END LOOP;
END $$;
