-- As revision 0017 made it, but where the server's transactions are counted from an earlier one than the newest seal's,
-- as after a dump was restored into a new cluster: then nothing is sealed, and that seal's age is the lag.
CREATE OR REPLACE FUNCTION audit_seal_lag() RETURNS double precision
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH newest AS (SELECT snapshot::pg_snapshot AS sealed, sealed_at FROM audit_seals ORDER BY id DESC LIMIT 1),
    oldest AS (
        SELECT min(occurred_at) AS since FROM audit_events
        WHERE xid >= coalesce((SELECT pg_snapshot_xmax(sealed)::text::bigint FROM newest), 0)
            OR xid = ANY (ARRAY(SELECT pg_snapshot_xip(sealed)::text::bigint FROM newest))
        UNION ALL
        SELECT sealed_at FROM newest WHERE pg_snapshot_xmax(sealed) > pg_snapshot_xmax(pg_current_snapshot())
    )
    SELECT coalesce(extract(epoch FROM clock_timestamp() - min(since)), 0)::double precision FROM oldest
$$;
