//! Who owns and who may use what in a database. Catalogues only: nothing that a user made is evaluated.

use super::client::{Session, cell, one};
use crate::plan::{DefaultGrant, RightsSurvey, RoleRights};
use crate::word::PortError;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::types::Type;

/// Tables, views and sequences of the user's.
const RELATIONS: &str = "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
      AND n.nspname NOT IN ('information_schema', 'greenlight')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND (d.deptype = 'e' OR d.deptype = 'i' AND c.relkind = 'S'))";

/// What the database of `session` says of owners and grants; of `role` too, if there is one.
///
/// # Errors
/// As reading.
pub async fn read(session: &Session, role: Option<&str>) -> Result<RightsSurvey, PortError> {
    let attempted = "read who may use what";
    let rows = session.read(attempted, "SELECT current_user::text", &[]).await?;
    let user: String = cell(one(&rows)?, 0)?;
    let sql = format!(
        "SELECT DISTINCT u.schema, coalesce(r.rolname::text, 'public')
         FROM (SELECT n.nspname::text AS schema, c.relowner AS role FROM {RELATIONS}
               UNION SELECT n.nspname::text, a.grantee
               FROM {RELATIONS_WITH_GRANTS}) u
         LEFT JOIN pg_roles r ON r.oid = u.role
         WHERE (u.role = 0 OR r.oid IS NOT NULL) AND NOT coalesce(r.rolsuper, false)"
    );
    let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in session.read(attempted, &sql, &[]).await? {
        users.entry(cell(&row, 0)?).or_default().insert(cell(&row, 1)?);
    }
    let sql = "SELECT pg_get_userbyid(d.defaclrole)::text, n.nspname::text, coalesce(r.rolname::text, 'public')
        FROM pg_default_acl d CROSS JOIN LATERAL aclexplode(d.defaclacl) a
        LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace LEFT JOIN pg_roles r ON r.oid = a.grantee
        WHERE d.defaclobjtype IN ('r', 'S') AND a.grantee <> d.defaclrole AND (a.grantee = 0 OR r.oid IS NOT NULL)
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";
    let mut defaults = Vec::new();
    for row in session.read(attempted, sql, &[]).await? {
        defaults.push(DefaultGrant { owner: cell(&row, 0)?, schema: cell(&row, 1)?, grantee: cell(&row, 2)? });
    }
    let role = match role {
        Some(role) => Some(of_role(session, role).await?),
        None => None,
    };
    Ok(RightsSurvey { user, users, defaults, role })
}

const RELATIONS_WITH_GRANTS: &str = "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN LATERAL aclexplode(c.relacl) a
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'greenlight')";

async fn of_role(session: &Session, role: &str) -> Result<RoleRights, PortError> {
    let attempted = "read what the role of the migrations may do";
    let param = [(&role as _, Type::TEXT)];
    if session.read(attempted, "SELECT FROM pg_roles WHERE rolname = $1", &param).await?.is_empty() {
        return Ok(RoleRights { exists: false, foreign: BTreeMap::new(), closed_schemas: Vec::new() });
    }
    let sql = format!(
        "SELECT pg_get_userbyid(c.relowner)::text, count(*) FROM {RELATIONS}
           AND NOT pg_has_role((SELECT oid FROM pg_roles WHERE rolname = $1), c.relowner, 'USAGE') GROUP BY 1 ORDER BY 1"
    );
    let mut foreign = BTreeMap::new();
    for row in session.read(attempted, &sql, &param).await? {
        foreign.insert(cell(&row, 0)?, u64::try_from(cell::<i64>(&row, 1)?).unwrap_or(0));
    }
    let sql = format!(
        "SELECT DISTINCT n.nspname::text FROM {RELATIONS}
           AND NOT has_schema_privilege((SELECT oid FROM pg_roles WHERE rolname = $1), n.oid, 'CREATE') ORDER BY 1"
    );
    let rows = session.read(attempted, &sql, &param).await?;
    let closed_schemas = rows.iter().map(|row| cell(row, 0)).collect::<Result<_, _>>()?;
    Ok(RoleRights { exists: true, foreign, closed_schemas })
}
