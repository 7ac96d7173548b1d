//! What the migrations make, to whom it belongs, and to whom they grant it.

use super::super::MadeObject;
use crate::word::RelationName;
use std::collections::BTreeSet;
use tokio_postgres::{Client, Error};

/// Every relation of the user's that somebody could be granted: not a partition, which is reached by its table, and not
/// the sequence of an identity column, which needs no grant.
const RELATIONS: &str = "pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
    WHERE c.relkind::pg_catalog.text OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,S,f}'::pg_catalog.text[]) AND NOT c.relispartition \
      AND n.nspname OPERATOR(pg_catalog.!~) '^pg_' \
      AND n.nspname::pg_catalog.text OPERATOR(pg_catalog.<>) ALL ('{information_schema,greenlight}'::pg_catalog.text[]) \
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
          AND d.objid OPERATOR(pg_catalog.=) c.oid AND d.deptype::pg_catalog.text OPERATOR(pg_catalog.=) 'i' \
          AND c.relkind::pg_catalog.text OPERATOR(pg_catalog.=) 'S')";

/// What is there already, by object id.
pub(super) async fn known(client: &Client) -> Result<BTreeSet<u32>, Error> {
    let rows = client.query(&format!("SELECT c.oid FROM {RELATIONS}"), &[]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// What is there now and was not before, without the history table.
pub(super) async fn read(client: &Client, known: &BTreeSet<u32>, history: &RelationName) -> Result<Vec<MadeObject>, Error> {
    let sql = format!(
        "SELECT c.oid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relkind::pg_catalog.text, \
             CASE WHEN c.relowner OPERATOR(pg_catalog.<>) (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) SESSION_USER) \
                  THEN pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text END, \
             ARRAY(SELECT CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'public' \
                               ELSE pg_catalog.pg_get_userbyid(a.grantee)::pg_catalog.text END \
                   FROM pg_catalog.aclexplode(c.relacl) a WHERE a.grantee OPERATOR(pg_catalog.<>) c.relowner) \
         FROM {RELATIONS} ORDER BY 2, 3"
    );
    let mut made = Vec::new();
    for row in client.query(&sql, &[]).await? {
        let name = RelationName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?);
        if known.contains(&row.try_get(0)?) || name == *history {
            continue;
        }
        let kind = match row.try_get::<_, String>(3)?.as_str() {
            "v" => "view",
            "m" => "materialized view",
            "S" => "sequence",
            _ => "table",
        };
        let mut granted: Vec<String> = row.try_get(5)?;
        granted.sort_unstable();
        granted.dedup();
        made.push(MadeObject { kind: kind.to_owned(), name, owner: row.try_get(4)?, granted });
    }
    Ok(made)
}
