-- What a closed department is kept from, and how its rows go.

GRANT UPDATE (closed_at) ON departments TO tsugiki_app;
GRANT UPDATE (erased_at) ON departments TO tsugiki_definer;

-- No key is made in a closed department, whoever asks.
CREATE FUNCTION refuse_closed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM departments WHERE id = NEW.department_id AND closed_at IS NOT NULL) THEN
        RAISE EXCEPTION 'the department is closed' USING ERRCODE = 'check_violation', CONSTRAINT = 'department_closed';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse_closed BEFORE INSERT ON api_keys FOR EACH ROW EXECUTE FUNCTION refuse_closed();

-- A closed department is left alone until it is erased: nothing is swept, and nothing is charged.
CREATE OR REPLACE FUNCTION storage_sweeps_due(p_limit integer) RETURNS TABLE (department_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT d.id FROM departments d LEFT JOIN storage_sweeps s ON s.department_id = d.id
    WHERE (s.due_at IS NULL OR s.due_at <= now()) AND d.closed_at IS NULL
    ORDER BY s.due_at NULLS FIRST, d.id
    LIMIT p_limit
$$;

CREATE OR REPLACE FUNCTION departments_to_sample() RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT d.id FROM departments d WHERE d.closed_at IS NULL AND NOT EXISTS (
        SELECT FROM storage_samples s WHERE s.department_id = d.id AND s.day = (now() AT TIME ZONE 'UTC')::date)
$$;

-- A department that has an admin keeps one, as long as it is open.
CREATE OR REPLACE FUNCTION keep_an_admin() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF 'department_admin' = ANY(OLD.roles)
        AND EXISTS (SELECT FROM departments WHERE id = OLD.department_id AND closed_at IS NULL)
        AND NOT EXISTS (SELECT FROM memberships
            WHERE department_id = OLD.department_id AND 'department_admin' = ANY(roles)) THEN
        RAISE EXCEPTION 'the department would be left without an admin'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'last_admin';
    END IF;
    RETURN NULL;
END $$;

-- Departments that were closed so long ago that they are to be erased, and in which nothing runs any more.
CREATE FUNCTION departments_to_erase(p_kept_s double precision) RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT d.id FROM departments d
    WHERE d.closed_at <= now() - make_interval(secs => p_kept_s) AND d.erased_at IS NULL AND NOT EXISTS (
        SELECT FROM jobs j WHERE j.department_id = d.id AND j.state NOT IN ('succeeded', 'failed', 'cancelled'))
$$;

-- Erase every row of a department that departments_to_erase names, but the trail and the department's own, which stays as
-- a tombstone. How many rows; none where it is not its time. Rows refer to each other: round after round those go that
-- nothing refers to any more.
CREATE FUNCTION erase_department(p_department uuid, p_kept_s double precision) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    waiting text[];
    later text[];
    name text;
    gone bigint;
    erased bigint := 0;
BEGIN
    PERFORM FROM departments WHERE id = p_department FOR UPDATE;
    IF p_department NOT IN (SELECT departments_to_erase(p_kept_s)) THEN
        RETURN 0;
    END IF;
    SELECT array_agg(relname ORDER BY relname) INTO waiting FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relforcerowsecurity AND NOT relispartition
        AND relname <> 'departments' AND relname NOT LIKE 'audit\_%';
    WHILE cardinality(waiting) > 0 LOOP
        later := '{}';
        FOREACH name IN ARRAY waiting LOOP
            BEGIN
                EXECUTE format('DELETE FROM %I WHERE department_id = $1', name) USING p_department;
                GET DIAGNOSTICS gone = ROW_COUNT;
                erased := erased + gone;
            EXCEPTION WHEN foreign_key_violation THEN
                later := later || name;
            END;
        END LOOP;
        IF cardinality(later) = cardinality(waiting) THEN
            RAISE EXCEPTION 'rows of % refer to each other in a circle', later;
        END IF;
        waiting := later;
    END LOOP;
    UPDATE departments SET erased_at = now() WHERE id = p_department;
    RETURN erased;
END $$;

DO $$
DECLARE
    name text;
    signature text;
BEGIN
    FOR name IN SELECT relname FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relforcerowsecurity AND relname NOT LIKE 'audit\_%'
    LOOP
        IF NOT EXISTS (SELECT FROM pg_policies WHERE tablename = name AND policyname = 'across') THEN
            EXECUTE format('CREATE POLICY across ON %I TO tsugiki_definer USING (true) WITH CHECK (true)', name);
        END IF;
        IF name <> 'departments' THEN
            EXECUTE format('GRANT SELECT, DELETE ON %I TO tsugiki_definer', name);
        END IF;
    END LOOP;
    FOREACH signature IN ARRAY ARRAY[
        'departments_to_erase(double precision)', 'erase_department(uuid, double precision)'
    ] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO tsugiki_app', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO tsugiki_definer', signature);
    END LOOP;
END $$;
