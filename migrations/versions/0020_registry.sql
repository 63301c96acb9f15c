-- Who may reach the rows of revision 0020, and what no row may become. Run after its tables.

-- What is there already: a job's person is known where a person submitted it, and every alias has come from somewhere.
-- An administrator who is no superuser sees these rows as their owner, whom row-level security otherwise binds too.
ALTER TABLE jobs NO FORCE ROW LEVEL SECURITY;
ALTER TABLE adapter_versions NO FORCE ROW LEVEL SECURITY;
ALTER TABLE aliases NO FORCE ROW LEVEL SECURITY;
UPDATE jobs SET submitter_id = submitted_by WHERE submitted_by_type = 'user';
UPDATE adapter_versions v SET submitter_id = j.submitter_id FROM jobs j WHERE j.id = v.job_id;
INSERT INTO alias_moves (department_id, adapter_id, name, kind, version_id, moved_by_type, moved_at)
    SELECT department_id, adapter_id, name, 'moved', version_id, 'system', moved_at FROM aliases;
UPDATE aliases a SET move_id = m.id FROM alias_moves m WHERE m.adapter_id = a.adapter_id AND m.name = a.name;
ALTER TABLE jobs FORCE ROW LEVEL SECURITY;
ALTER TABLE adapter_versions FORCE ROW LEVEL SECURITY;
ALTER TABLE aliases FORCE ROW LEVEL SECURITY;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['alias_moves', 'approval_comments', 'approval_decisions', 'approval_requests'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY department ON %I TO tsugiki_app USING (department_id = current_department()) '
            'WITH CHECK (department_id = current_department())', name
        );
        EXECUTE format('GRANT SELECT, INSERT ON %I TO tsugiki_app', name);
        -- A closed department's rows go through erase_department.
        EXECUTE format('CREATE POLICY across ON %I TO tsugiki_definer USING (true) WITH CHECK (true)', name);
        EXECUTE format('GRANT SELECT, DELETE ON %I TO tsugiki_definer', name);
    END LOOP;
END $$;

GRANT UPDATE (state, closed_at) ON approval_requests TO tsugiki_app;
GRANT UPDATE (labels, description, state_reason, state_changed_at, deleted_at) ON adapter_versions TO tsugiki_app;
GRANT UPDATE (move_id), DELETE ON aliases TO tsugiki_app;
GRANT UPDATE (default_data_class) ON departments TO tsugiki_app;

-- --- versions --------------------------------------------------------------------------------------------------------

-- Whether a version may go from one state to another. The same as domain.adapters.NEXT.
CREATE FUNCTION version_may_become(p_from text, p_to text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE p_from
        WHEN 'candidate' THEN p_to IN ('approved', 'rejected', 'retired', 'revoked')
        WHEN 'approved' THEN p_to IN ('retired', 'revoked')
        WHEN 'rejected' THEN p_to IN ('retired', 'revoked')
        WHEN 'retired' THEN p_to = 'revoked'
        ELSE false
    END $$;

-- How many people must approve a version at least. The same as domain.data_classes.REQUIRED_APPROVALS.
CREATE FUNCTION required_approvals(p_data_class text) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE p_data_class WHEN 'restricted' THEN 2 ELSE 1 END $$;

-- What may change in a version, by whichever way it is changed. A version becomes approved by people's decisions on its
-- own bytes, and no alias stands for what is rejected, retired, revoked or deleted.
CREATE FUNCTION check_version_change() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    changing constant text[] := ARRAY[
        'state', 'state_reason', 'state_changed_at', 'labels', 'description', 'damaged_at', 'deleted_at'];
BEGIN
    IF to_jsonb(NEW) - changing IS DISTINCT FROM to_jsonb(OLD) - changing THEN
        RAISE EXCEPTION 'an adapter version does not change' USING ERRCODE = 'check_violation';
    END IF;
    IF OLD.deleted_at IS NOT NULL AND NEW.deleted_at IS DISTINCT FROM OLD.deleted_at THEN
        RAISE EXCEPTION 'a deleted version stays deleted' USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.state <> OLD.state AND NOT version_may_become(OLD.state, NEW.state) THEN
        RAISE EXCEPTION 'a version that is % cannot become %', OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.state = 'approved' AND OLD.state <> 'approved' AND NOT EXISTS (
        SELECT FROM approval_requests r
        WHERE r.version_id = NEW.id AND r.digest = NEW.digest AND r.state = 'approved'
            AND (SELECT count(DISTINCT d.approver_id) FROM approval_decisions d
                WHERE d.request_id = r.id AND d.decision = 'approve')
                >= greatest(r.required, required_approvals(NEW.data_class))
    ) THEN
        RAISE EXCEPTION 'nobody approved this version' USING ERRCODE = 'check_violation';
    END IF;
    IF (NEW.state NOT IN ('candidate', 'approved') OR NEW.deleted_at IS NOT NULL)
        AND EXISTS (SELECT FROM aliases a WHERE a.version_id = NEW.id)
    THEN
        RAISE EXCEPTION 'an alias stands for this version' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER check_change BEFORE UPDATE ON adapter_versions FOR EACH ROW EXECUTE FUNCTION check_version_change();

-- --- aliases ---------------------------------------------------------------------------------------------------------

-- Where an alias may be moved. The lock makes a move and a revocation of its version wait for each other. A version that is
-- not found is for the foreign key to refuse.
CREATE FUNCTION check_alias_move() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    found adapter_versions;
BEGIN
    SELECT * INTO found FROM adapter_versions v WHERE v.id = NEW.version_id FOR SHARE;
    IF found.id IS NULL THEN
        RETURN NEW;
    END IF;
    IF found.deleted_at IS NOT NULL OR found.state NOT IN ('candidate', 'approved')
        OR NEW.protected AND found.state <> 'approved'
    THEN
        RAISE EXCEPTION 'an alias cannot stand for this version' USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.protected AND EXISTS (
        SELECT FROM approval_decisions d
        WHERE d.version_id = NEW.version_id AND d.approver_id = NEW.mover_id AND d.decision = 'approve'
    ) THEN
        RAISE EXCEPTION 'whoever approved a version does not put it into service' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER check_move BEFORE INSERT ON alias_moves FOR EACH ROW EXECUTE FUNCTION check_alias_move();

-- --- approvals -------------------------------------------------------------------------------------------------------

-- A request is closed once.
CREATE FUNCTION check_request_change() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    IF OLD.state <> 'pending' THEN
        RAISE EXCEPTION 'this request is closed' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER check_change BEFORE UPDATE ON approval_requests FOR EACH ROW EXECUTE FUNCTION check_request_change();
