-- A shared version's downloads by other departments, in its owner's list of who was sent it.

GRANT INSERT, UPDATE (times, last_at) ON downloads TO tsugiki_definer;

-- That the session's department was sent a version that is shared with it: its owner's row, for whoever asks who has it.
CREATE FUNCTION remember_shared_download(p_share uuid, p_holder uuid, p_holder_type text) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    INSERT INTO downloads AS held (department_id, version_id, holder_id, holder_type)
    SELECT owner_id, version_id, p_holder, p_holder_type FROM shared_versions() WHERE share_id = p_share
    ON CONFLICT (department_id, version_id, holder_id) DO UPDATE SET times = held.times + 1, last_at = now()
$$;

REVOKE ALL ON FUNCTION remember_shared_download(uuid, uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION remember_shared_download(uuid, uuid, text) TO tsugiki_app;
ALTER FUNCTION remember_shared_download(uuid, uuid, text) OWNER TO tsugiki_definer;
