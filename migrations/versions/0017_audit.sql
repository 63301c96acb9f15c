-- The audit trail of revision 0017: its partitions, its writer, and who proves it.
--
-- tsugiki_sealer  reads every department's events, writes seals, checkpoints and manifests, keeps the partitions; the
--                 application may become it for one transaction, which is how the sealer's process works.

GRANT USAGE ON SCHEMA public TO tsugiki_sealer;
ALTER TABLE audit_events OWNER TO tsugiki_owner;

-- Partitions are nobody's to reach but through audit_events: no right on them, nor on their schema, is ever granted.
CREATE SCHEMA audit;

-- --- append-only -----------------------------------------------------------------------------------------------------

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit_events FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['audit_seals', 'audit_checkpoints', 'audit_archives'] LOOP
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I '
            'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', name);
        EXECUTE format('GRANT SELECT, INSERT ON %I TO tsugiki_sealer', name);
        EXECUTE format('GRANT SELECT ON %I TO tsugiki_auditor', name);
    END LOOP;
END $$;

GRANT SELECT, INSERT ON audit_exports TO tsugiki_auditor;
GRANT UPDATE (state, rows, digest, bytes) ON audit_exports TO tsugiki_auditor;

-- The month of a moment and so many after it: a partition each, where there is none. How many it made.
-- Rows are refused a change by the parent's trigger, which each partition has of it; TRUNCATE of a partition is not.
CREATE FUNCTION audit_ensure_partitions(p_from timestamptz, p_months integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    first timestamptz := date_trunc('month', p_from, 'UTC');
    until timestamptz := date_trunc('month', greatest(p_from, now()), 'UTC') + make_interval(months => p_months);
    name text;
    made integer := 0;
BEGIN
    WHILE first <= until LOOP
        name := to_char(first AT TIME ZONE 'UTC', '"audit_events_"YYYY_MM');
        IF to_regclass(format('audit.%I', name)) IS NULL THEN
            EXECUTE format('CREATE TABLE audit.%I PARTITION OF audit_events FOR VALUES FROM (%L) TO (%L)',
                name, first, (first AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC');
            EXECUTE format('ALTER TABLE audit.%I ENABLE ROW LEVEL SECURITY', name);
            EXECUTE format('ALTER TABLE audit.%I FORCE ROW LEVEL SECURITY', name);
            EXECUTE format('CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON audit.%I '
                'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', name);
            made := made + 1;
        END IF;
        first := (first AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
    END LOOP;
    RETURN made;
END $$;

-- Whole months that ended before a moment, oldest first, with their bounds.
CREATE FUNCTION audit_partitions_before(p_moment timestamptz) RETURNS TABLE (partition text, since timestamptz,
    until timestamptz) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT relname, since, until FROM (
        SELECT c.relname::text AS relname, to_timestamp(right(c.relname, 7) || '+00', 'YYYY_MMTZH') AS since,
            (to_timestamp(right(c.relname, 7) || '+00', 'YYYY_MMTZH') AT TIME ZONE 'UTC' + interval '1 month')
                AT TIME ZONE 'UTC' AS until
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'audit_events'::regclass
    ) months WHERE until <= p_moment ORDER BY relname
$$;

-- Drop a month that ended, and has its manifest: without one, or before the month after it is over, it refuses.
CREATE FUNCTION audit_drop_partition(p_partition text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM audit_archives WHERE partition = p_partition)
        OR NOT EXISTS (SELECT FROM audit_partitions_before(now() - interval '1 month') WHERE partition = p_partition)
    THEN
        RAISE EXCEPTION 'this part of the audit trail is to be kept' USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('ALTER TABLE audit_events DETACH PARTITION audit.%I', p_partition);
    EXECUTE format('DROP TABLE audit.%I', p_partition);
END $$;

ALTER SCHEMA audit OWNER TO tsugiki_owner;

-- --- functions --------------------------------------------------------------------------------------------------------

-- The only writer of the trail. It sets transaction, number and time itself.
-- The transaction's number comes first: whoever has a higher one than a seal's writer got a higher number too.
CREATE FUNCTION audit_append(
    p_department uuid, p_actor_type text, p_actor uuid, p_actor_key uuid, p_action text, p_outcome text,
    p_reason_code text, p_resource_type text, p_resource uuid, p_refs uuid[], p_request_id text, p_source_ip text,
    p_details jsonb, p_roles text[] DEFAULT '{}', p_auth_method text DEFAULT NULL, p_on_behalf_of uuid DEFAULT NULL,
    p_trace_id text DEFAULT NULL, p_user_agent_hash text DEFAULT NULL, p_job_epoch integer DEFAULT NULL,
    p_before jsonb DEFAULT NULL, p_after jsonb DEFAULT NULL, p_object_sha256 text DEFAULT NULL,
    p_policy_version text DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    writer bigint := pg_current_xact_id()::text::bigint;
    event uuid;
BEGIN
    INSERT INTO audit_events (
        xid, department_id, actor_type, actor_id, actor_key_id, action, outcome, reason_code, resource_type,
        resource_id, refs, request_id, source_ip, details, roles, auth_method, on_behalf_of, trace_id, user_agent_hash,
        job_epoch, before, after, object_sha256, policy_version
    ) VALUES (
        writer, p_department, p_actor_type, p_actor, p_actor_key, p_action, p_outcome, p_reason_code, p_resource_type,
        p_resource, p_refs, p_request_id, p_source_ip, p_details, p_roles, p_auth_method, p_on_behalf_of, p_trace_id,
        p_user_agent_hash, p_job_epoch, p_before, p_after, p_object_sha256, p_policy_version
    ) RETURNING id INTO event;
    RETURN event;
END $$;

-- How long the oldest event that no seal covers has been waiting, in seconds; 0 where there is none.
CREATE FUNCTION audit_seal_lag() RETURNS double precision
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH newest AS (SELECT snapshot::pg_snapshot AS sealed FROM audit_seals ORDER BY id DESC LIMIT 1),
    oldest AS (
        SELECT min(occurred_at) AS since FROM audit_events
        WHERE xid >= coalesce((SELECT pg_snapshot_xmax(sealed)::text::bigint FROM newest), 0)
            OR xid = ANY (ARRAY(SELECT pg_snapshot_xip(sealed)::text::bigint FROM newest))
    )
    SELECT coalesce(extract(epoch FROM clock_timestamp() - since), 0)::double precision FROM oldest
$$;

GRANT INSERT, SELECT ON audit_events TO tsugiki_definer;
GRANT SELECT ON audit_seals TO tsugiki_definer;
GRANT SELECT ON audit_events TO tsugiki_app, tsugiki_auditor, tsugiki_sealer;

DO $$
DECLARE
    signature text;
    owner text;
BEGIN
    FOR signature, owner IN SELECT oid::regprocedure::text,
            CASE WHEN proname IN ('audit_append', 'audit_seal_lag') THEN 'tsugiki_definer' ELSE 'tsugiki_owner' END
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'audit\_%'
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO tsugiki_sealer', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO %s', signature, owner);
    END LOOP;
    FOR signature IN SELECT oid::regprocedure::text FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND proname IN ('audit_append', 'audit_seal_lag')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO tsugiki_app, tsugiki_auditor', signature);
    END LOOP;
END $$;
