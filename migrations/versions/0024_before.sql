-- The functions that 0024_audit_months.sql replaced, as they were before.
CREATE OR REPLACE FUNCTION audit_ensure_partitions(p_from timestamptz, p_months integer) RETURNS integer
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

CREATE OR REPLACE FUNCTION audit_drop_partition(p_partition text) RETURNS void
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
