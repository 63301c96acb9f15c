-- Who may reach the rows of revision 0010, as 0001_access.sql says it of the others, and what the deliverer asks.

DO $$
DECLARE
    name text;
    condition text;
BEGIN
    FOREACH name IN ARRAY ARRAY['outgoing_deliveries', 'outgoing_events', 'webhook_endpoints'] LOOP
        condition := CASE
            -- The organisation's own endpoints belong to no department; the platform's session sees just these.
            WHEN name = 'webhook_endpoints' THEN 'department_id IS NOT DISTINCT FROM current_department()'
            ELSE 'department_id = current_department()'
        END;
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY department ON %I TO tsugiki_app USING (%s) WITH CHECK (%s)', name, condition, condition
        );
        EXECUTE format('CREATE POLICY across ON %I TO tsugiki_definer USING (true) WITH CHECK (true)', name);
        EXECUTE format('GRANT SELECT, INSERT ON %I TO tsugiki_app', name);
    END LOOP;
END $$;

GRANT UPDATE (name, url, event_types, secret, old_secret, old_secret_ends_at, updated_at, deleted_at)
    ON webhook_endpoints TO tsugiki_app;
GRANT UPDATE (due_at, delivered_at, given_up_at, status_code, error) ON outgoing_deliveries TO tsugiki_app;

-- Secrets are read by whoever signs, in the endpoint's own department.
GRANT SELECT (id, department_id, event_types, created_at, deleted_at) ON webhook_endpoints TO tsugiki_definer;
GRANT SELECT (id, department_id, kind, created_at, fanned_out_at), UPDATE (fanned_out_at), DELETE
    ON outgoing_events TO tsugiki_definer;
GRANT SELECT, INSERT, UPDATE (attempts, due_at), DELETE ON outgoing_deliveries TO tsugiki_definer;

-- Give new events to everybody who wanted to hear of them when they happened. p_lineage_kinds: what the OpenLineage
-- endpoint gets. How many were looked at.
CREATE FUNCTION fan_out_events(p_limit integer, p_lineage_kinds text[]) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH taken AS (
        UPDATE outgoing_events e SET fanned_out_at = now()
        WHERE e.id IN (
            SELECT n.id FROM outgoing_events n WHERE n.fanned_out_at IS NULL
            ORDER BY n.id LIMIT p_limit FOR UPDATE SKIP LOCKED
        )
        RETURNING e.id, e.department_id, e.kind, e.created_at
    ), given AS (
        INSERT INTO outgoing_deliveries (department_id, event_id, receiver)
        SELECT t.department_id, t.id, w.id
        FROM taken t JOIN webhook_endpoints w
            ON (w.department_id = t.department_id OR w.department_id IS NULL) AND w.deleted_at IS NULL
            AND t.kind = ANY (w.event_types) AND w.created_at <= t.created_at
        UNION ALL
        SELECT t.department_id, t.id, '00000000-0000-0000-0000-000000000000' FROM taken t
        WHERE t.kind = ANY (p_lineage_kinds)
    )
    SELECT count(*) FROM taken
$$;

-- Take deliveries that are due, two of a receiver at most: a slow one holds up nobody else. Whoever takes one has
-- p_hold_s for it; if nothing was heard by then, it is due again.
CREATE FUNCTION claim_deliveries(p_limit integer, p_hold_s double precision)
    RETURNS TABLE (delivery_id uuid, department_id uuid)
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE outgoing_deliveries d SET attempts = d.attempts + 1, due_at = now() + make_interval(secs => p_hold_s)
    FROM (
        SELECT first.id
        FROM (SELECT DISTINCT o.receiver FROM outgoing_deliveries o WHERE o.due_at <= now()) due
        CROSS JOIN LATERAL (
            SELECT o.id FROM outgoing_deliveries o
            WHERE o.receiver = due.receiver AND o.due_at <= now()
            ORDER BY o.due_at, o.id LIMIT 2 FOR UPDATE SKIP LOCKED
        ) first
        LIMIT p_limit
    ) taken
    WHERE d.id = taken.id
    RETURNING d.id, d.department_id
$$;

-- Remove events that are older than that and no longer on their way, with what became of them.
CREATE FUNCTION forget_outgoing_events(p_older_than_s double precision) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    DELETE FROM outgoing_events e
    WHERE e.created_at < now() - make_interval(secs => p_older_than_s) AND e.fanned_out_at IS NOT NULL
        AND NOT EXISTS (SELECT FROM outgoing_deliveries d WHERE d.event_id = e.id AND d.due_at IS NOT NULL)
$$;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY[
        'fan_out_events(integer, text[])', 'claim_deliveries(integer, double precision)',
        'forget_outgoing_events(double precision)'
    ] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO tsugiki_app', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO tsugiki_definer', signature);
    END LOOP;
END $$;
