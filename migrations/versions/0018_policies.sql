-- Who may reach policies. A row without a department is the organisation's: only the platform's session writes one.

ALTER TABLE policies ENABLE ROW LEVEL SECURITY;
ALTER TABLE policies FORCE ROW LEVEL SECURITY;
CREATE POLICY department ON policies TO tsugiki_app
    USING (department_id IS NOT DISTINCT FROM current_department())
    WITH CHECK (department_id IS NOT DISTINCT FROM current_department());
-- Written once: nobody may change or delete one.
GRANT SELECT, INSERT ON policies TO tsugiki_app;

CREATE POLICY across ON policies TO tsugiki_definer USING (true) WITH CHECK (true);
GRANT SELECT, DELETE ON policies TO tsugiki_definer;

-- A number follows the one before it. Of two at once the index lets one through.
CREATE FUNCTION check_policy_number() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    IF NEW.number <> 1 + coalesce(
        (SELECT max(p.number) FROM policies p WHERE p.department_id IS NOT DISTINCT FROM NEW.department_id), 0)
    THEN
        RAISE EXCEPTION 'versions of a policy are numbered without gaps' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER check_number BEFORE INSERT ON policies FOR EACH ROW EXECUTE FUNCTION check_policy_number();

-- The organisation's document in force, for every department: its rules are theirs too.
CREATE FUNCTION organisation_policy() RETURNS TABLE (number integer, document text, digest text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT p.number, p.document, p.digest FROM policies p
    WHERE p.department_id IS NULL ORDER BY p.number DESC LIMIT 1
$$;

REVOKE ALL ON FUNCTION organisation_policy() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION organisation_policy() TO tsugiki_app;
ALTER FUNCTION organisation_policy() OWNER TO tsugiki_definer;
