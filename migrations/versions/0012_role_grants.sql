-- Who may reach the rows of revision 0012, and the rules of who may hold which role, as the database keeps them.

DO $$
DECLARE
    name text;
    condition text;
BEGIN
    FOREACH name IN ARRAY ARRAY['break_glass', 'role_grants'] LOOP
        condition := CASE name
            WHEN 'role_grants' THEN 'department_id IS NOT DISTINCT FROM current_department()'
            ELSE 'department_id = current_department()'
        END;
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY department ON %I TO tsugiki_app USING (%s) WITH CHECK (%s)', name, condition, condition
        );
        EXECUTE format('GRANT SELECT, INSERT ON %I TO tsugiki_app', name);
    END LOOP;
END $$;

GRANT UPDATE (decided_by, decided_at, withdrawn_at) ON role_grants TO tsugiki_app;
GRANT UPDATE (opened_by, opened_at, expires_at, closed_at, account_id) ON break_glass TO tsugiki_app;
CREATE POLICY across ON break_glass TO tsugiki_definer USING (true) WITH CHECK (true);
GRANT SELECT ON break_glass TO tsugiki_definer;

-- How many operators a role grant needs, whatever the caller says: two where two are there to decide.
CREATE FUNCTION operators_needed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    SELECT least(2, greatest(1, count(DISTINCT coalesce(answered_for_by, id)))) INTO NEW.needed
    FROM service_accounts WHERE department_id IS NULL AND 'operator' = ANY(roles) AND deleted_at IS NULL;
    RETURN NEW;
END $$;
CREATE TRIGGER operators_needed BEFORE INSERT ON role_grants FOR EACH ROW EXECUTE FUNCTION operators_needed();

-- An auditor writes nothing anywhere; an operator decides and audits nothing. Roles of one person are compared wherever
-- they are held, and under a lock: two transactions must not each give a half.
CREATE FUNCTION keep_roles_apart() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    person uuid := CASE TG_TABLE_NAME
        WHEN 'memberships' THEN (to_jsonb(NEW) ->> 'user_id')::uuid ELSE (to_jsonb(NEW) ->> 'answered_for_by')::uuid
    END;
    held text[];
BEGIN
    IF person IS NULL OR (TG_TABLE_NAME = 'service_accounts' AND NEW.department_id IS NOT NULL) THEN
        RETURN NEW;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('roles of ' || person, 0));
    SELECT coalesce(array_agg(DISTINCT role), '{}') INTO held FROM (
        SELECT unnest(roles) AS role FROM memberships WHERE user_id = person
        UNION SELECT unnest(roles) FROM service_accounts
            WHERE answered_for_by = person AND department_id IS NULL AND deleted_at IS NULL
    ) AS theirs;
    IF ('auditor' = ANY(held)
            AND held && ARRAY['operator', 'approver', 'trainer', 'data_steward', 'department_admin'])
        OR ('operator' = ANY(held) AND 'approver' = ANY(held)) THEN
        RAISE EXCEPTION 'roles that may not meet in one person'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'roles_apart';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER keep_roles_apart AFTER INSERT OR UPDATE OF roles ON memberships
    FOR EACH ROW EXECUTE FUNCTION keep_roles_apart();
CREATE TRIGGER keep_roles_apart AFTER INSERT OR UPDATE OF roles ON service_accounts
    FOR EACH ROW EXECUTE FUNCTION keep_roles_apart();

-- A department that has an admin keeps one.
CREATE FUNCTION keep_an_admin() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF 'department_admin' = ANY(OLD.roles)
        AND NOT EXISTS (SELECT FROM memberships
            WHERE department_id = OLD.department_id AND 'department_admin' = ANY(roles)) THEN
        RAISE EXCEPTION 'the department would be left without an admin'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'last_admin';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER keep_an_admin AFTER DELETE OR UPDATE OF roles ON memberships
    FOR EACH ROW EXECUTE FUNCTION keep_an_admin();

-- Emergencies whose time is over and that nobody has closed.
CREATE FUNCTION break_glass_over() RETURNS TABLE (id uuid, department_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT b.id, b.department_id FROM break_glass b WHERE b.closed_at IS NULL AND b.expires_at <= now()
$$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['operators_needed', 'keep_roles_apart', 'keep_an_admin', 'break_glass_over'] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %I() FROM PUBLIC', name);
        EXECUTE format('ALTER FUNCTION %I() OWNER TO tsugiki_definer', name);
    END LOOP;
END $$;
GRANT EXECUTE ON FUNCTION break_glass_over() TO tsugiki_app;
