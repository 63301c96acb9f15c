-- Who may reach which rows. Run once, after the tables of revision 0001 exist.
--
-- tsugiki_owner    owns the tables; nobody connects as it.
-- tsugiki_app      the application: bound by row-level security, owns nothing, may not truncate.
-- tsugiki_definer  owns the few functions that reach across departments; nobody connects as it.
-- tsugiki_auditor  reads the audit trail of all departments and nothing else; the application may become it
--                  for one transaction (SET LOCAL ROLE), which is how an auditor's request runs.

GRANT USAGE ON SCHEMA public TO tsugiki_app, tsugiki_definer, tsugiki_auditor;

-- --- rows ------------------------------------------------------------------------------------------------------------

-- current_setting is '' and not NULL after the first transaction that set it: nullif makes both mean "no department".
CREATE FUNCTION current_department() RETURNS uuid LANGUAGE sql STABLE
    AS $$ SELECT nullif(current_setting('app.department', true), '')::uuid $$;

DO $$
DECLARE
    name text;
    condition text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'adapter_versions', 'adapters', 'aliases', 'api_keys', 'audit_events', 'departments', 'evaluations', 'files',
        'job_checkpoints', 'job_events', 'jobs', 'leases', 'lineage_edges', 'memberships', 'service_accounts'
    ] LOOP
        condition := CASE
            WHEN name = 'departments' THEN 'id = current_department()'
            -- The platform's own accounts, keys and events belong to no department; its session sees just these.
            WHEN name IN ('api_keys', 'service_accounts', 'audit_events')
                THEN 'department_id IS NOT DISTINCT FROM current_department()'
            ELSE 'department_id = current_department()'
        END;
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY department ON %I TO tsugiki_app USING (%s) WITH CHECK (%s)', name, condition, condition
        );
        EXECUTE format('GRANT SELECT, INSERT ON %I TO tsugiki_app', name);
    END LOOP;

    FOREACH name IN ARRAY ARRAY[
        'api_keys', 'audit_events', 'departments', 'jobs', 'leases', 'memberships', 'service_accounts'
    ] LOOP
        EXECUTE format('CREATE POLICY across ON %I TO tsugiki_definer USING (true) WITH CHECK (true)', name);
        EXECUTE format('GRANT SELECT ON %I TO tsugiki_definer', name);
    END LOOP;
END $$;

GRANT SELECT, INSERT ON users, base_models, base_model_files TO tsugiki_app;
GRANT UPDATE (state, facts) ON base_models TO tsugiki_app;
GRANT UPDATE (uploaded_at) ON base_model_files TO tsugiki_app;
GRANT UPDATE (served_at) ON departments TO tsugiki_app;
GRANT UPDATE (roles), DELETE ON memberships TO tsugiki_app;
GRANT UPDATE (deleted_at) ON service_accounts TO tsugiki_app;
GRANT UPDATE (revoked_at) ON api_keys TO tsugiki_app;
GRANT UPDATE (deleted_at) ON files TO tsugiki_app;
GRANT UPDATE ON jobs, leases TO tsugiki_app;
GRANT UPDATE (rejected_at) ON job_checkpoints TO tsugiki_app;
GRANT UPDATE (next_number) ON adapters TO tsugiki_app;
GRANT UPDATE (state) ON adapter_versions TO tsugiki_app;
GRANT UPDATE (version_id, moved_at) ON aliases TO tsugiki_app;
REVOKE INSERT ON audit_events FROM tsugiki_app;

GRANT INSERT ON audit_events TO tsugiki_definer;
GRANT UPDATE (last_used_at) ON api_keys TO tsugiki_definer;
GRANT UPDATE (nudged_at) ON jobs TO tsugiki_definer;

GRANT SELECT ON audit_events TO tsugiki_auditor;
CREATE POLICY auditor ON audit_events FOR SELECT TO tsugiki_auditor USING (true);

-- --- the audit trail is append-only ----------------------------------------------------------------------------------

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'the audit trail is append-only' USING ERRCODE = 'insufficient_privilege'; END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit_events FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- --- functions that reach across departments: this list is all of them --------------------------------------------------

-- The only writer of the trail. It sets number and time itself.
CREATE FUNCTION audit_append(
    p_department uuid, p_actor_type text, p_actor uuid, p_actor_key uuid, p_action text, p_outcome text,
    p_reason_code text, p_resource_type text, p_resource uuid, p_refs uuid[], p_request_id text, p_source_ip text,
    p_details jsonb
) RETURNS uuid LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    INSERT INTO audit_events (
        department_id, actor_type, actor_id, actor_key_id, action, outcome, reason_code, resource_type, resource_id,
        refs, request_id, source_ip, details
    ) VALUES (
        p_department, p_actor_type, p_actor, p_actor_key, p_action, p_outcome, p_reason_code, p_resource_type,
        p_resource, p_refs, p_request_id, p_source_ip, p_details
    ) RETURNING id
$$;

-- The key behind a presented prefix, with the roles its owner has now; no row when it is revoked or expired.
CREATE FUNCTION authenticate_key(p_prefix text) RETURNS TABLE (
    key_id uuid, secret_sha256 bytea, department_id uuid, user_id uuid, service_account_id uuid, roles text[]
) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT k.id, k.secret_sha256, k.department_id, k.user_id, k.service_account_id, coalesce(m.roles, s.roles)
    FROM api_keys k
    LEFT JOIN memberships m ON m.department_id = k.department_id AND m.user_id = k.user_id
    LEFT JOIN service_accounts s ON s.id = k.service_account_id AND s.deleted_at IS NULL
    WHERE k.prefix = p_prefix AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
        AND coalesce(m.roles, s.roles) IS NOT NULL
$$;

-- Remember that a key was used, to the minute.
CREATE FUNCTION touch_key(p_key uuid) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE api_keys SET last_used_at = now()
    WHERE id = p_key AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
$$;

-- Every department, for the operator and the auditor.
CREATE FUNCTION list_departments() RETURNS SETOF departments
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
    AS $$ SELECT * FROM departments $$;

-- Which department a queue message's job belongs to.
CREATE FUNCTION job_department(p_job uuid) RETURNS uuid
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
    AS $$ SELECT department_id FROM jobs WHERE id = p_job $$;

-- Queued jobs in the order in which workers should take them: the department that waited longest first.
CREATE FUNCTION claimable_jobs(p_limit integer) RETURNS TABLE (job_id uuid, department_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT first.id, first.department_id
    FROM departments d
    CROSS JOIN LATERAL (
        SELECT j.id, j.department_id, row_number() OVER (ORDER BY j.id) AS place
        FROM jobs j WHERE j.department_id = d.id AND j.state = 'queued' ORDER BY j.id LIMIT p_limit
    ) first
    ORDER BY first.place, d.served_at NULLS FIRST, first.id
    LIMIT p_limit
$$;

-- Running jobs whose lease has run out: their workers are dead, stopped or cut off.
CREATE FUNCTION expired_leases() RETURNS TABLE (job_id uuid, department_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT j.id, j.department_id FROM jobs j JOIN leases l ON l.id = j.lease_id
    WHERE j.state = 'running' AND l.expires_at < now()
$$;

-- Jobs that wait and were not rung for lately; from now they count as rung for.
CREATE FUNCTION jobs_to_nudge(p_older_than_s double precision) RETURNS TABLE (job_id uuid, state text)
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE jobs SET nudged_at = now()
    WHERE jobs.state IN ('validating_files', 'queued') AND nudged_at < now() - make_interval(secs => p_older_than_s)
    RETURNING jobs.id, jobs.state
$$;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY[
        'audit_append(uuid, text, uuid, uuid, text, text, text, text, uuid, uuid[], text, text, jsonb)',
        'authenticate_key(text)', 'touch_key(uuid)', 'list_departments()', 'job_department(uuid)',
        'claimable_jobs(integer)', 'expired_leases()', 'jobs_to_nudge(double precision)'
    ] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO tsugiki_app', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO tsugiki_definer', signature);
    END LOOP;
END $$;
GRANT EXECUTE ON FUNCTION
    audit_append(uuid, text, uuid, uuid, text, text, text, text, uuid, uuid[], text, text, jsonb) TO tsugiki_auditor;
