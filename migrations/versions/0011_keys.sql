-- The key behind a presented prefix: what it was made for, the roles its owner has now, and the person who answers for a
-- service account. No row when it is revoked or expired.
CREATE FUNCTION authenticate_key(p_prefix text) RETURNS TABLE (
    key_id uuid, secret_sha256 bytea, department_id uuid, user_id uuid, service_account_id uuid, roles text[],
    scopes text[], answered_for_by uuid
) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT k.id, k.secret_sha256, k.department_id, k.user_id, k.service_account_id, coalesce(m.roles, s.roles),
        k.scopes, s.answered_for_by
    FROM api_keys k
    LEFT JOIN memberships m ON m.department_id = k.department_id AND m.user_id = k.user_id
    LEFT JOIN service_accounts s ON s.id = k.service_account_id AND s.deleted_at IS NULL
    WHERE k.prefix = p_prefix AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
        AND coalesce(m.roles, s.roles) IS NOT NULL
$$;
REVOKE ALL ON FUNCTION authenticate_key(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION authenticate_key(text) TO tsugiki_app;
GRANT CREATE ON SCHEMA public TO tsugiki_definer;
ALTER FUNCTION authenticate_key(text) OWNER TO tsugiki_definer;
REVOKE CREATE ON SCHEMA public FROM tsugiki_definer;
