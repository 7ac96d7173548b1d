//! Functions that a table calls by itself, and that a role without a superuser's rights can make into anything: whoever writes its
//! rows with more rights than that role runs them with his.
//!
//! They are found by the server's own record of what depends on what. What the body of a function calls is not in it, so that a
//! superuser's function counts as good, whatever it calls.

use super::failure::{self, Effect};
use crate::plan::{Stranger, StrangerVia};
use crate::word::{PortError, RelationName};
use std::collections::BTreeSet;
use tokio_postgres::{Client, Row};

/// What belongs to a table and may call something, and from there along what it depends on: types to the constraints of domains and
/// to what they are made of, operators and functions to their functions. `$1`: one table, or all when it is null.
const STRANGERS: &str = "WITH RECURSIVE tables AS (
        SELECT c.oid, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
          AND n.nspname NOT IN ('information_schema', 'greenlight') AND ($1::oid IS NULL OR c.oid = $1)
          AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')),
    parts (relation, via, name, class, object, tree) AS (
        SELECT conrelid, 'check', conname::text, 'pg_constraint'::regclass::oid, oid, conbin::text FROM pg_constraint WHERE contype = 'c'
        UNION ALL SELECT i.indrelid, 'index', c.relname::text, 'pg_class'::regclass::oid, c.oid,
                concat(i.indexprs::text, i.indpred::text) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        UNION ALL SELECT d.adrelid, CASE a.attgenerated WHEN '' THEN 'default' ELSE 'generated' END, a.attname::text,
                'pg_attrdef'::regclass::oid, d.oid, NULL
            FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
        UNION ALL SELECT tgrelid, CASE WHEN tgenabled IN ('A', 'R') THEN 'trigger_always' ELSE 'trigger' END, tgname::text,
                'pg_trigger'::regclass::oid, oid, NULL FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D'
        UNION ALL SELECT ev_class, 'rule', rulename::text, 'pg_rewrite'::regclass::oid, oid, NULL FROM pg_rewrite
            WHERE rulename <> '_RETURN' AND ev_enabled <> 'D'
        UNION ALL SELECT stxrelid, 'statistics', stxname::text, 'pg_statistic_ext'::regclass::oid, oid, stxexprs::text
            FROM pg_statistic_ext
        UNION ALL SELECT partrelid, 'partition_key', partrelid::regclass::text, 'pg_class'::regclass::oid, partrelid, partexprs::text
            FROM pg_partitioned_table
        UNION ALL SELECT a.attrelid, 'type', a.attname::text, 'pg_type'::regclass::oid, a.atttypid, NULL
            FROM pg_attribute a WHERE a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384),
    reached (relation, via, name, tree, class, object) AS (
        SELECT p.relation, p.via, p.name, p.tree, p.class, p.object FROM parts p JOIN tables t ON t.oid = p.relation
        UNION
        SELECT r.relation, r.via, r.name, r.tree, next.class, next.object FROM reached r CROSS JOIN LATERAL (
            SELECT d.refclassid AS class, d.refobjid AS object FROM pg_depend d WHERE d.classid = r.class AND d.objid = r.object
                AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass, 'pg_cast'::regclass)
            UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k
                WHERE r.class = 'pg_type'::regclass AND k.contypid = r.object
            UNION ALL SELECT 'pg_type'::regclass, y.typelem FROM pg_type y
                WHERE r.class = 'pg_type'::regclass AND y.oid = r.object AND y.typelem >= 16384
            UNION ALL SELECT 'pg_type'::regclass, a.atttypid FROM pg_type y JOIN pg_attribute a ON a.attrelid = y.typrelid
                WHERE r.class = 'pg_type'::regclass AND y.oid = r.object AND y.typtype = 'c' AND a.attnum > 0 AND a.atttypid >= 16384
        ) AS next)
    SELECT t.nspname::text, t.relname::text, r.via, r.name, format('%I.%I', fn.nspname, f.proname), o.rolname::text, f.oid,
        f.provolatile = 'i', l.lanname = 'sql', r.tree
    FROM reached r JOIN tables t ON t.oid = r.relation JOIN pg_proc f ON r.class = 'pg_proc'::regclass AND f.oid = r.object
    JOIN pg_namespace fn ON fn.oid = f.pronamespace JOIN pg_language l ON l.oid = f.prolang JOIN pg_roles o ON o.oid = f.proowner
    WHERE NOT o.rolsuper AND fn.nspname <> 'greenlight'
    ORDER BY 1, 2, 3, 4, 5";

/// All of a database's tables.
///
/// # Errors
/// The catalogue could not be read.
pub async fn read(client: &Client) -> Result<Vec<Stranger>, PortError> {
    of(client, None).await
}

/// Those that run when rows of one table are written in this session; none where it has not a superuser's rights: then they run as
/// one who has no more than the table's users.
///
/// # Errors
/// As `read`, and when there is no such table.
pub async fn of_writes(client: &Client, table: &RelationName) -> Result<Vec<Stranger>, PortError> {
    let attempted = format!("see what table `{table}` calls");
    let failed = |e: tokio_postgres::Error| failure::of_call(&attempted, Effect::Read, &e);
    let sql = "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid, \
               (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) CURRENT_USER)";
    let row = client.query_one(sql, &[&table.sql()]).await.map_err(failed)?;
    let (relation, superuser): (Option<u32>, bool) = (row.get(0), row.get(1));
    let relation = relation.ok_or_else(|| PortError::refused(&attempted).because("there is no table of that name"))?;
    if !superuser {
        return Ok(Vec::new());
    }
    let all = of(client, Some(relation)).await?;
    Ok(all.into_iter().filter(|stranger| stranger.via != StrangerVia::Statistics).collect())
}

async fn of(client: &Client, relation: Option<u32>) -> Result<Vec<Stranger>, PortError> {
    let attempted = "see what the tables call";
    let failed = |e: tokio_postgres::Error| failure::of_call(attempted, Effect::Read, &e);
    let rows = client.query(STRANGERS, &[&relation]).await.map_err(failed)?;
    let ids: BTreeSet<u32> = rows.iter().map(|row| row.get(6)).collect();
    rows.iter().map(|row| stranger(row, &ids)).collect::<Result<_, _>>().map_err(failed)
}

fn stranger(row: &Row, ids: &BTreeSet<u32>) -> Result<Stranger, tokio_postgres::Error> {
    let (immutable, inlined): (bool, bool) = (row.try_get(7)?, row.try_get(8)?);
    let tree: Option<String> = row.try_get(9)?;
    let via = match row.try_get(2)? {
        "check" => StrangerVia::Check,
        "index" => StrangerVia::Index,
        "default" => StrangerVia::Default,
        "generated" => StrangerVia::Generated,
        "trigger" => StrangerVia::Trigger,
        "trigger_always" => StrangerVia::TriggerAlways,
        "rule" => StrangerVia::Rule,
        "statistics" => StrangerVia::Statistics,
        "partition_key" => StrangerVia::PartitionKey,
        _ => StrangerVia::Type,
    };
    Ok(Stranger {
        table: RelationName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?),
        via,
        name: row.try_get(3)?,
        function: row.try_get(4)?,
        owner: row.try_get(5)?,
        at_planning: immutable && tree.is_some_and(|tree| inlined || has_constant_call(&tree, ids)),
    })
}

/// Whether a stored expression has a call that depends on no column, of one of these functions or by an operator: the planner
/// works it out ahead.
fn has_constant_call(tree: &str, functions: &BTreeSet<u32>) -> bool {
    // What is open: whether it is such a call, and whether a column was met in it.
    let mut open: Vec<(bool, bool)> = Vec::new();
    for (at, c) in tree.char_indices() {
        match c {
            '{' => {
                let node = &tree[at + 1..];
                let is_var = node.starts_with("VAR ");
                let call =
                    node.strip_prefix("FUNCEXPR :funcid ").map_or(node.split(' ').next().is_some_and(is_operator), |rest| {
                        rest.split(' ').next().and_then(|id| id.parse().ok()).is_some_and(|id| functions.contains(&id))
                    });
                open.push((call, is_var));
            }
            '}' => {
                let Some((call, has_var)) = open.pop() else { return true };
                if call && !has_var {
                    return true;
                }
                if let Some(around) = open.last_mut() {
                    around.1 |= has_var;
                }
            }
            _ => (),
        }
    }
    false
}

fn is_operator(node: &str) -> bool {
    ["OPEXPR", "DISTINCTEXPR", "NULLIFEXPR", "SCALARARRAYOPEXPR", "ROWCOMPAREEXPR", "COERCEVIAIO", "COERCETODOMAIN"]
        .contains(&node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_call_without_a_column_is_worked_out_by_the_planner() {
        let ours = BTreeSet::from([16500]);
        let call = |id: u32, args: &str| format!("({{FUNCEXPR :funcid {id} :funcresulttype 25 :args ({args}) :location 7}})");
        let (var, constant) = ("{VAR :varno 1 :varattno 2}", "{CONST :consttype 25 :constvalue 5 [ 20 0 ]}");
        assert!(!has_constant_call(&call(16500, var), &ours));
        assert!(has_constant_call(&call(16500, constant), &ours));
        assert!(has_constant_call(&call(16500, "<>"), &ours));
        assert!(has_constant_call(&call(16500, &format!("{} {var}", call(16500, constant))), &ours));
        assert!(!has_constant_call(&call(870, constant), &ours));
        assert!(has_constant_call(&format!("{{OPEXPR :opno 16600 :args ({constant} {constant})}}"), &ours));
        assert!(!has_constant_call("<>", &ours));
    }
}
