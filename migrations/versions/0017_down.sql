-- Revision 0017 undone: one table again, with the events that there are, as 0001_access.sql left it.

GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer;
DROP FUNCTION audit_append, audit_seal_lag, audit_drop_partition, audit_partitions_before, audit_ensure_partitions;
ALTER TABLE audit_events RENAME TO audit_events_parted;
ALTER TABLE audit_events_parted DISABLE ROW LEVEL SECURITY;
ALTER TABLE audit_events_parted RENAME CONSTRAINT pk_audit_events TO pk_audit_events_parted;
DROP INDEX ix_audit_events_id, ix_audit_events_xid, ix_audit_events_department_id_number,
    ix_audit_events_actor_id_number, ix_audit_events_resource_id_number, ix_audit_events_action_department_id_number,
    ix_audit_events_request_id, ix_audit_events_not_done, ix_audit_events_refs;
ALTER SEQUENCE audit_events_number_seq RENAME TO audit_events_parted_number_seq;

CREATE TABLE audit_events (
    number bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_audit_events PRIMARY KEY,
    id uuid NOT NULL DEFAULT uuidv7() CONSTRAINT uq_audit_events_id UNIQUE,
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    department_id uuid, actor_type text NOT NULL, actor_id uuid, actor_key_id uuid, action text NOT NULL,
    outcome text NOT NULL, reason_code text, resource_type text, resource_id uuid, refs uuid[] NOT NULL,
    request_id text, source_ip text, details jsonb NOT NULL
);
INSERT INTO audit_events (number, id, occurred_at, department_id, actor_type, actor_id, actor_key_id, action, outcome,
    reason_code, resource_type, resource_id, refs, request_id, source_ip, details) OVERRIDING SYSTEM VALUE
SELECT number, id, occurred_at, department_id, actor_type, actor_id, actor_key_id, action, outcome, reason_code,
    resource_type, resource_id, refs, request_id, source_ip, details FROM audit_events_parted;
SELECT setval(pg_get_serial_sequence('audit_events', 'number'), max(number)) FROM audit_events
    HAVING max(number) IS NOT NULL;
DROP TABLE audit_events_parted;
DROP SCHEMA audit;

CREATE INDEX ix_audit_events_actor_id_number ON audit_events (actor_id, number);
CREATE INDEX ix_audit_events_department_id_number ON audit_events (department_id, number);
CREATE INDEX ix_audit_events_refs ON audit_events USING gin (refs);
CREATE INDEX ix_audit_events_resource_id_number ON audit_events (resource_id, number);
ALTER TABLE audit_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_events FORCE ROW LEVEL SECURITY;
CREATE POLICY department ON audit_events TO tsugiki_app USING (department_id IS NOT DISTINCT FROM current_department())
    WITH CHECK (department_id IS NOT DISTINCT FROM current_department());
CREATE POLICY across ON audit_events TO tsugiki_definer USING (true) WITH CHECK (true);
CREATE POLICY auditor ON audit_events FOR SELECT TO tsugiki_auditor USING (true);
GRANT SELECT ON audit_events TO tsugiki_app, tsugiki_auditor;
GRANT SELECT, INSERT ON audit_events TO tsugiki_definer;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit_events FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE audit_events OWNER TO tsugiki_owner;

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
REVOKE ALL ON FUNCTION audit_append FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit_append TO tsugiki_app, tsugiki_auditor;
ALTER FUNCTION audit_append OWNER TO tsugiki_definer;
REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer;
REVOKE USAGE ON SCHEMA public FROM tsugiki_sealer;
