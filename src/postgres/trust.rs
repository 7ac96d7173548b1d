//! Whose it is: what is looked up by name in a database in which others may create objects.
//!
//! A name says nothing of who made the thing. A view runs its owner's functions with the rights of whoever reads it; so do
//! triggers, rules, defaults, and the expressions of constraints, indexes and statistics, the last three at planning already.
//! `SET ROLE` helps against none of it, since code that runs under it may say `RESET ROLE`. So nothing is read before it is
//! known whose it is, and what is a stranger's is refused.
//!
//! Trusted are superusers, who need no trick, and the user whose session it is. Schema and objects of a trusted owner cannot
//! become a stranger's by a stranger's doing.
//!
//! Asked in sessions of applications too: every name is qualified, and ` = ` stands for the operator that is (`qualified`).

use super::failure::{Effect, of_call};
use crate::plan::SCHEMA;
use crate::word::{PortError, RelationName};
use tokio_postgres::Client;

const TRUSTED: &str = "trusted AS (SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolsuper OR r.rolname = session_user)";

/// Of schema `greenlight` ($1): whether it is there, its tables, and what speaks against it.
const OWN_SCHEMA: &str = "
    own AS (SELECT n.oid, n.nspowner, n.nspacl FROM pg_catalog.pg_namespace AS n WHERE n.nspname = $1::pg_catalog.text),
    relation AS (SELECT c.oid, c.relname, c.relkind, c.relowner, c.relrowsecurity
        FROM pg_catalog.pg_class AS c JOIN own ON c.relnamespace = own.oid),
    owned (what, owner) AS (
        SELECT 'it', nspowner FROM own
        UNION ALL SELECT pg_catalog.concat('`', relname, '` in it'), relowner FROM relation
        UNION ALL SELECT pg_catalog.concat('function `', p.proname, '` in it'), p.proowner
            FROM pg_catalog.pg_proc AS p JOIN own ON p.pronamespace = own.oid
        UNION ALL SELECT pg_catalog.concat('type `', t.typname, '` in it'), t.typowner
            FROM pg_catalog.pg_type AS t JOIN own ON t.typnamespace = own.oid)
    SELECT EXISTS (SELECT FROM own),
        ARRAY(SELECT relname::pg_catalog.text FROM relation WHERE relkind = 'r'),
        ARRAY(
            SELECT pg_catalog.concat(what, ' belongs to role `', pg_catalog.pg_get_userbyid(owner), '`') FROM owned
                WHERE NOT owner = ANY (SELECT oid FROM trusted)
            UNION ALL SELECT pg_catalog.concat('role `', CASE WHEN a.grantee = 0::pg_catalog.oid THEN 'PUBLIC'
                    ELSE pg_catalog.pg_get_userbyid(a.grantee) END, '` may create objects in it')
                FROM own, LATERAL pg_catalog.aclexplode(own.nspacl) AS a
                WHERE a.privilege_type = 'CREATE' AND NOT a.grantee = ANY (SELECT oid FROM trusted)
            UNION ALL SELECT pg_catalog.concat('`', relname, '` in it is no plain table') FROM relation
                WHERE NOT relkind = ANY ('{r,i,S,t}'::pg_catalog.\"char\"[]) OR relrowsecurity
                    OR EXISTS (SELECT FROM pg_catalog.pg_rewrite AS w WHERE w.ev_class = relation.oid)
                    OR EXISTS (SELECT FROM pg_catalog.pg_trigger AS g JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid
                        WHERE g.tgrelid = relation.oid AND (g.tgqual IS NOT NULL OR NOT p.pronamespace = ANY (SELECT oid FROM own)))
                    OR EXISTS (SELECT FROM pg_catalog.pg_inherits AS h WHERE h.inhparent = relation.oid))";

/// Of a table by schema and name ($1, $2): what speaks against it. No row when there is nothing of that name.
const PLAIN_TABLE: &str = "
    relation AS (SELECT c.oid, c.relkind, c.relrowsecurity
        FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = $1::pg_catalog.text AND c.relname = $2::pg_catalog.text),
    part (class, oid, what) AS (
        SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, i.indexrelid, pg_catalog.concat('index `', x.relname, '`')
            FROM pg_catalog.pg_index AS i JOIN relation ON i.indrelid = relation.oid
            JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
        UNION ALL SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid, pg_catalog.concat('constraint `', k.conname, '`')
            FROM pg_catalog.pg_constraint AS k JOIN relation ON k.conrelid = relation.oid
        UNION ALL SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, d.oid, 'a default'
            FROM pg_catalog.pg_attrdef AS d JOIN relation ON d.adrelid = relation.oid
        UNION ALL SELECT 'pg_catalog.pg_trigger'::pg_catalog.regclass, g.oid, pg_catalog.concat('trigger `', g.tgname, '`')
            FROM pg_catalog.pg_trigger AS g JOIN relation ON g.tgrelid = relation.oid
        UNION ALL SELECT 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, s.oid, pg_catalog.concat('statistics `', s.stxname, '`')
            FROM pg_catalog.pg_statistic_ext AS s JOIN relation ON s.stxrelid = relation.oid),
    code (class, oid, name, owner) AS (
        SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, p.proname, p.proowner FROM pg_catalog.pg_proc AS p
        UNION ALL SELECT 'pg_catalog.pg_operator'::pg_catalog.regclass, o.oid, o.oprname, o.oprowner
            FROM pg_catalog.pg_operator AS o)
    SELECT ARRAY(
        SELECT 'it is a view, or something else that is no plain table' WHERE NOT relation.relkind = 'r'
        UNION ALL SELECT 'it has row security' WHERE relation.relrowsecurity
        UNION ALL SELECT pg_catalog.concat('it has rule `', w.rulename, '`') FROM pg_catalog.pg_rewrite AS w
            WHERE relation.relkind = 'r' AND w.ev_class = relation.oid
        UNION ALL SELECT 'it inherits, or is inherited from' WHERE EXISTS (SELECT FROM pg_catalog.pg_inherits AS h
            WHERE h.inhparent = relation.oid OR h.inhrelid = relation.oid)
        UNION ALL SELECT pg_catalog.concat('foreign key `', k.conname, '`') FROM pg_catalog.pg_constraint AS k
            WHERE k.contype = 'f' AND (k.conrelid = relation.oid OR k.confrelid = relation.oid)
        UNION ALL SELECT pg_catalog.concat('column `', a.attname, '` is of a type that is not PostgreSQL''s own')
            FROM pg_catalog.pg_attribute AS a
            WHERE a.attrelid = relation.oid AND NOT a.attisdropped AND a.atttypid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
        UNION ALL SELECT pg_catalog.concat(part.what, ' calls `', code.name, '` of role `',
                pg_catalog.pg_get_userbyid(code.owner), '`')
            FROM part JOIN pg_catalog.pg_depend AS d ON d.classid = part.class AND d.objid = part.oid
            JOIN code ON code.class = d.refclassid AND code.oid = d.refobjid
            WHERE NOT code.owner = ANY (SELECT oid FROM trusted))
    FROM relation";

fn qualified(sql: &str) -> String {
    format!("WITH {TRUSTED}, {sql}").replace(" = ", " OPERATOR(pg_catalog.=) ")
}

/// The names of the tables in schema `greenlight`; `None` when there is no such schema.
///
/// # Errors
/// `Refused` when it, or anything in it, is a stranger's, or not what Greenlight makes there: before anything of it is read.
pub(crate) async fn own_schema(client: &Client) -> Result<Option<Vec<String>>, PortError> {
    let attempted = format!("use schema `{SCHEMA}`");
    let error = |e: tokio_postgres::Error| of_call(attempted.clone(), Effect::Read, &e);
    let row = client.query_one(&qualified(OWN_SCHEMA), &[&SCHEMA]).await.map_err(error)?;
    let (there, tables, against): (bool, Vec<String>, Vec<String>) =
        (row.try_get(0).map_err(error)?, row.try_get(1).map_err(error)?, row.try_get(2).map_err(error)?);
    if against.is_empty() {
        return Ok(there.then_some(tables));
    }
    Err(PortError::refused(attempted).because(listed(&against)).hint(format!(
        "Greenlight keeps its own notes in a schema of that name, and takes none that somebody else has a hand in. See what it \
         is, and rename it (ALTER SCHEMA {SCHEMA} RENAME TO ...) or drop it (DROP SCHEMA {SCHEMA} CASCADE)"
    )))
}

/// Whether there is a table of this name: one that runs nobody else's code when it is read or written.
///
/// # Errors
/// `Refused` when there is something of that name that does.
pub(crate) async fn plain_table(client: &Client, table: &RelationName) -> Result<bool, PortError> {
    let attempted = format!("use table {table}");
    let error = |e: tokio_postgres::Error| of_call(attempted.clone(), Effect::Read, &e);
    let row = client.query_opt(&qualified(PLAIN_TABLE), &[&table.schema, &table.name]).await.map_err(error)?;
    let Some(row) = row else { return Ok(false) };
    let against: Vec<String> = row.try_get(0).map_err(error)?;
    if against.is_empty() {
        return Ok(true);
    }
    Err(PortError::refused(attempted).because(listed(&against)).hint(
        "what others wrote would run there with Greenlight's rights: make it a plain table without what is named, or give those \
         functions to a superuser",
    ))
}

fn listed(against: &[String]) -> String {
    let more = against.len().saturating_sub(3);
    let some = against.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
    if more == 0 { some } else { format!("{some}; and {more} more") }
}
