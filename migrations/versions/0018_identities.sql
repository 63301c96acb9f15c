-- Who may reach the rows of revision 0018.

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
