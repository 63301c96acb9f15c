-- Who may reach the usage records. Run once, after the table of revision 0004 exists.

ALTER TABLE usage_records ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_records FORCE ROW LEVEL SECURITY;
CREATE POLICY department ON usage_records TO tsugiki_app
    USING (department_id = current_department()) WITH CHECK (department_id = current_department());
CREATE POLICY across ON usage_records TO tsugiki_definer USING (true) WITH CHECK (true);

-- Written once: nobody but the owner may change or delete a row, and no row is the owner's to see.
GRANT SELECT, INSERT ON usage_records TO tsugiki_app;
GRANT SELECT ON usage_records TO tsugiki_definer;

GRANT CREATE ON SCHEMA public TO tsugiki_owner;
ALTER TABLE usage_records OWNER TO tsugiki_owner;
REVOKE CREATE ON SCHEMA public FROM tsugiki_owner;
