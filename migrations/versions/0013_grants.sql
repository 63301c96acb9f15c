-- Who may reach the rows of revision 0013.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['file_grants', 'version_shares'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY department ON %I TO tsugiki_app USING (department_id = current_department()) '
            'WITH CHECK (department_id = current_department())', name
        );
        EXECUTE format('GRANT SELECT, INSERT ON %I TO tsugiki_app', name);
    END LOOP;
END $$;

GRANT UPDATE (ended_at) ON file_grants TO tsugiki_app;
GRANT UPDATE (decided_by, decided_at, ended_at) ON version_shares TO tsugiki_app;
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['adapter_versions', 'adapters', 'version_shares'] LOOP
        IF NOT EXISTS (SELECT FROM pg_policies WHERE tablename = name AND policyname = 'across') THEN
            EXECUTE format('CREATE POLICY across ON %I TO tsugiki_definer USING (true) WITH CHECK (true)', name);
        END IF;
        EXECUTE format('GRANT SELECT ON %I TO tsugiki_definer', name);
    END LOOP;
END $$;

-- What other departments share with the session's own: approved versions, as long as the share lasts, and no others.
CREATE FUNCTION shared_versions() RETURNS TABLE (
    share_id uuid, owner_id uuid, version_id uuid, adapter_id uuid, adapter text, number integer, model_name text,
    digest text, manifest jsonb, base_model_id uuid, created_at timestamptz, expires_at timestamptz
) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT s.id, s.department_id, v.id, a.id, a.name, v.number, v.model_name, v.digest, v.manifest, v.base_model_id,
        v.created_at, s.expires_at
    FROM version_shares s
    JOIN adapter_versions v ON v.id = s.version_id AND v.department_id = s.department_id AND v.digest = s.digest
    JOIN adapters a ON a.id = v.adapter_id AND a.department_id = v.department_id
    WHERE s.to_department = current_department() AND s.decided_at IS NOT NULL AND s.ended_at IS NULL
        AND s.expires_at > now() AND v.state = 'approved'
$$;
REVOKE ALL ON FUNCTION shared_versions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION shared_versions() TO tsugiki_app;
ALTER FUNCTION shared_versions() OWNER TO tsugiki_definer;
