-- audit_seal_lag as revision 0017 made it.
CREATE OR REPLACE FUNCTION audit_seal_lag() RETURNS double precision
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH newest AS (SELECT snapshot::pg_snapshot AS sealed FROM audit_seals ORDER BY id DESC LIMIT 1),
    oldest AS (
        SELECT min(occurred_at) AS since FROM audit_events
        WHERE xid >= coalesce((SELECT pg_snapshot_xmax(sealed)::text::bigint FROM newest), 0)
            OR xid = ANY (ARRAY(SELECT pg_snapshot_xip(sealed)::text::bigint FROM newest))
    )
    SELECT coalesce(extract(epoch FROM clock_timestamp() - since), 0)::double precision FROM oldest
$$;
