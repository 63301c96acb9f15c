-- Whose emergency access ends with their role.

-- As revision 0011 made it, but for accounts of a break-glass access: they act while whoever answers for them is an
-- operator. One that the installation's first operator asked for has nobody.
CREATE OR REPLACE FUNCTION authenticate_key(p_prefix text) RETURNS TABLE (
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
        AND ('break_glass' <> ALL(coalesce(s.roles, '{}')) OR s.answered_for_by IS NULL OR EXISTS (
            SELECT FROM service_accounts o
            WHERE o.department_id IS NULL AND o.answered_for_by = s.answered_for_by AND 'operator' = ANY(o.roles)
                AND o.deleted_at IS NULL))
$$;
