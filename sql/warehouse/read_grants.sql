-- Who may do what with a table, beside its owner, as GRANT says it.
SELECT format('GRANT %s ON %I TO %s%s', a.privilege_type, r.relname,
              CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
              CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace
CROSS JOIN LATERAL aclexplode(r.relacl) a
WHERE n.nspname = current_schema() AND r.relname = ANY ($1::text[]) AND a.grantee <> r.relowner
ORDER BY 1
