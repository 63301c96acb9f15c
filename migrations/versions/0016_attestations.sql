-- Who may reach the rows of revision 0016, as 0001_access.sql says it of the others.

ALTER TABLE version_attestations ENABLE ROW LEVEL SECURITY;
ALTER TABLE version_attestations FORCE ROW LEVEL SECURITY;
CREATE POLICY department ON version_attestations TO tsugiki_app USING (department_id = current_department())
    WITH CHECK (department_id = current_department());

-- Written once each: no key is taken back, and no signature is put in another's place.
GRANT SELECT, INSERT ON signing_keys, version_attestations TO tsugiki_app;

ALTER TABLE signing_keys OWNER TO tsugiki_owner;
ALTER TABLE version_attestations OWNER TO tsugiki_owner;

CREATE POLICY across ON version_attestations TO tsugiki_definer USING (true) WITH CHECK (true);
GRANT SELECT, DELETE ON version_attestations TO tsugiki_definer;

-- What a version is signed with that another department shares with the session's own, as long as it does.
CREATE FUNCTION shared_attestations(p_share uuid) RETURNS TABLE (kind text, digest text, bytes integer, key_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT a.kind, a.digest, a.bytes, a.key_id
    FROM shared_versions() s
    JOIN version_attestations a ON a.department_id = s.owner_id AND a.version_id = s.version_id
    WHERE s.share_id = p_share
    ORDER BY a.kind
$$;
REVOKE ALL ON FUNCTION shared_attestations(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION shared_attestations(uuid) TO tsugiki_app;
ALTER FUNCTION shared_attestations(uuid) OWNER TO tsugiki_definer;
