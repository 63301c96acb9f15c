-- Who may reach limits and samples, and the sums of what was used. Run once, after the tables of revision 0005 exist.

ALTER TABLE storage_samples ENABLE ROW LEVEL SECURITY;
ALTER TABLE storage_samples FORCE ROW LEVEL SECURITY;
CREATE POLICY department ON storage_samples TO tsugiki_app
    USING (department_id = current_department()) WITH CHECK (department_id = current_department());
CREATE POLICY across ON storage_samples TO tsugiki_definer USING (true) WITH CHECK (true);
GRANT SELECT, INSERT ON storage_samples TO tsugiki_app;
GRANT SELECT ON storage_samples TO tsugiki_definer;
GRANT UPDATE (
    max_running_jobs, max_unfinished_jobs, max_gpu_hours, max_storage_bytes, monthly_budget, budget_warned_at
) ON departments TO tsugiki_app;

-- What was used on the days from p_from to p_to, which is not among them: UTC. Summed over what p_by does not name, which
-- is NULL in the result. p_departments, p_keys and p_items filter where they are not NULL.
--
-- With the caller's own rights: a department's session sums its own rows and no others.
CREATE FUNCTION usage_of_departments(
    p_from date, p_to date, p_by text[], p_departments uuid[], p_keys uuid[], p_items text[]
) RETURNS TABLE (
    day date, department_id uuid, item text, submitted_by uuid, submitted_by_type text, submitted_key uuid, job_id uuid,
    gpu_seconds numeric, trained_tokens numeric, storage_byte_days numeric, amount numeric
) LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    WITH ledger AS (
        SELECT (r.ended_at AT TIME ZONE 'UTC')::date AS day, r.department_id, 'gpu' AS item, r.submitted_by,
            r.submitted_by_type, r.submitted_key, r.job_id, r.gpu_seconds, r.trained_tokens, 0 AS storage_byte_days,
            r.amount
        FROM usage_records r
        WHERE r.ended_at >= p_from::timestamp AT TIME ZONE 'UTC' AND r.ended_at < p_to::timestamp AT TIME ZONE 'UTC'
        UNION ALL
        SELECT s.day, s.department_id, 'storage', NULL, NULL, NULL, NULL, 0, 0,
            s.file_bytes + s.version_bytes + s.checkpoint_bytes, s.amount
        FROM storage_samples s WHERE s.day >= p_from AND s.day < p_to
    ), shown AS (
        SELECT CASE WHEN 'day' = ANY (p_by) THEN l.day END AS day,
            CASE WHEN 'department' = ANY (p_by) THEN l.department_id END AS department_id,
            CASE WHEN 'item' = ANY (p_by) THEN l.item END AS item,
            CASE WHEN 'user' = ANY (p_by) THEN l.submitted_by END AS submitted_by,
            CASE WHEN 'user' = ANY (p_by) THEN l.submitted_by_type END AS submitted_by_type,
            CASE WHEN 'key' = ANY (p_by) THEN l.submitted_key END AS submitted_key,
            CASE WHEN 'job' = ANY (p_by) THEN l.job_id END AS job_id,
            l.gpu_seconds, l.trained_tokens, l.storage_byte_days, l.amount
        FROM ledger l
        WHERE (p_departments IS NULL OR l.department_id = ANY (p_departments))
            AND (p_keys IS NULL OR l.submitted_key = ANY (p_keys)) AND (p_items IS NULL OR l.item = ANY (p_items))
    )
    SELECT s.day, s.department_id, s.item, s.submitted_by, s.submitted_by_type, s.submitted_key, s.job_id,
        sum(s.gpu_seconds), sum(s.trained_tokens), sum(s.storage_byte_days), sum(s.amount)
    FROM shown s GROUP BY 1, 2, 3, 4, 5, 6, 7
$$;

-- The same of every department, for the operator and the auditor: sums, and no rows.
CREATE FUNCTION usage_of_all_departments(
    p_from date, p_to date, p_by text[], p_departments uuid[], p_keys uuid[], p_items text[]
) RETURNS TABLE (
    day date, department_id uuid, item text, submitted_by uuid, submitted_by_type text, submitted_key uuid, job_id uuid,
    gpu_seconds numeric, trained_tokens numeric, storage_byte_days numeric, amount numeric
) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT * FROM usage_of_departments(p_from, p_to, p_by, p_departments, p_keys, p_items)
$$;

-- Departments whose storage was not sampled today.
CREATE FUNCTION departments_to_sample() RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT d.id FROM departments d WHERE NOT EXISTS (
        SELECT FROM storage_samples s WHERE s.department_id = d.id AND s.day = (now() AT TIME ZONE 'UTC')::date)
$$;

-- Departments with a budget that were not warned this month.
CREATE FUNCTION departments_to_warn() RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT d.id FROM departments d
    WHERE d.monthly_budget IS NOT NULL
        AND (d.budget_warned_at IS NULL OR d.budget_warned_at < date_trunc('month', now(), 'UTC'))
$$;

GRANT CREATE ON SCHEMA public TO tsugiki_owner, tsugiki_definer;
ALTER TABLE storage_samples OWNER TO tsugiki_owner;
DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY[
        'usage_of_all_departments(date, date, text[], uuid[], uuid[], text[])', 'departments_to_sample()',
        'departments_to_warn()'
    ] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO tsugiki_app', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO tsugiki_definer', signature);
    END LOOP;
END $$;
REVOKE CREATE ON SCHEMA public FROM tsugiki_owner, tsugiki_definer;
