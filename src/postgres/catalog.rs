//! Reads the whole catalogue of a database as data: one set-based query for each kind of object, whatever their number.
//!
//! Nothing is changed, so it works on a standby. All texts are what the server itself deparses while its search path holds
//! `pg_catalog` alone, so that every other name in them is qualified.
//!
//! **Invariant:** what Greenlight made (schema `greenlight`, triggers that call its functions), what belongs to an
//! extension, and what is temporary never appear.

use super::failure::{self, Effect};
use super::locks;
use crate::schema::{
    Catalog, Column, Constraint, Index, Partition, Persistence, RelationNameKey, ReplicaIdentity, Sequence, Table, Trigger, View,
};
use crate::word::{PortError, RelationName};
use std::collections::BTreeMap;
use tokio_postgres::{Client, Row, types::FromSql};

/// Reads everything from one snapshot, in a transaction of its own: the session must not be inside one.
///
/// # Errors
/// `Transient` when the session is lost or the standby cancels the query, `Refused` when the server will not answer.
pub async fn read(client: &Client) -> Result<Catalog, PortError> {
    client.batch_execute(BEGIN).await.map_err(|e| error(&e))?;
    let catalog = read_all(client).await;
    // Only the session's own state is at stake; a lost session has none.
    let ended = client.batch_execute("ROLLBACK").await;
    ended.map_err(|e| error(&e))?;
    match catalog {
        Ok(catalog) => Ok(catalog),
        Err(e) => Err(locks::explained(client, error(&e)).await),
    }
}

fn error(error: &tokio_postgres::Error) -> PortError {
    failure::of_call("read the schema", Effect::Read, error)
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = pg_catalog, pg_temp";

async fn read_all(client: &Client) -> Result<Catalog, tokio_postgres::Error> {
    Ok(Catalog {
        tables: tables(client).await?,
        sequences: sequences(client).await?,
        views: views(client).await?,
        functions: texts(client, FUNCTIONS).await?,
        types: texts(client, TYPES).await?,
        extensions: texts(client, EXTENSIONS).await?,
        others: texts(client, OTHERS).await?,
        schemas: client.query(SCHEMAS, &[]).await?.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?,
    })
}

/// A schema whose objects are the user's.
macro_rules! user_schema {
    ($namespace:literal) => {
        concat!($namespace, ".nspname !~ '^pg_' AND ", $namespace, ".nspname NOT IN ('information_schema', 'greenlight')")
    };
}

/// An object that no extension brought.
macro_rules! not_of_extension {
    ($class:literal, $oid:literal) => {
        concat!(
            "NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = '",
            $class,
            "'::regclass AND e.objid = ",
            $oid,
            " AND e.deptype = 'e')"
        )
    };
}

macro_rules! user_relation {
    () => {
        concat!(user_schema!("n"), " AND ", not_of_extension!("pg_class", "c.oid"))
    };
}

macro_rules! table_relation {
    () => {
        concat!("c.relkind IN ('r', 'p', 'f') AND ", user_relation!())
    };
}

const TABLES: &str = concat!(
    "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text,
        c.relispartition, c.relrowsecurity, pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid),
        (SELECT array_agg(i.inhparent ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = c.oid)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE ",
    table_relation!(),
    " ORDER BY c.oid"
);

const COLUMNS: &str = concat!(
    "SELECT c.oid, a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid < 16384, a.attnotnull,
        CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END, a.attidentity::text,
        CASE WHEN a.attgenerated <> ''
            THEN pg_get_expr(d.adbin, d.adrelid) || CASE a.attgenerated WHEN 'v' THEN ' VIRTUAL' ELSE ' STORED' END END,
        (SELECT quote_ident(ln.nspname) || '.' || quote_ident(l.collname)
            FROM pg_collation l JOIN pg_namespace ln ON ln.oid = l.collnamespace
            WHERE l.oid = a.attcollation AND a.attcollation <> t.typcollation)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE ",
    table_relation!(),
    " ORDER BY c.oid, a.attnum"
);

// A foreign key that names a partitioned table has a shadow of itself for each partition, under names that a dump does not
// keep: only the one that was declared counts.
const CONSTRAINTS: &str = concat!(
    "SELECT c.oid, k.conname::text, k.contype::text, pg_get_constraintdef(k.oid), k.convalidated
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_constraint k ON k.conrelid = c.oid
    WHERE k.contype IN ('p', 'u', 'f', 'c', 'x') AND NOT (k.contype = 'f' AND k.conparentid <> 0) AND ",
    table_relation!(),
    " ORDER BY c.oid, k.conname"
);

const INDEXES: &str = concat!(
    "SELECT c.oid, ic.relname::text, pg_get_indexdef(i.indexrelid), i.indisunique, i.indisvalid, i.indisprimary,
        i.indisreplident,
        i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND keys.not_null,
        keys.names
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_index i ON i.indrelid = c.oid JOIN pg_class ic ON ic.oid = i.indexrelid
    LEFT JOIN LATERAL (
        SELECT array_agg(a.attname::text ORDER BY k.at) AS names, bool_and(a.attnotnull) AS not_null
        FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, at)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE k.at <= i.indnkeyatts) keys ON true
    WHERE ",
    table_relation!(),
    " ORDER BY c.oid, ic.relname"
);

const TRIGGERS: &str = concat!(
    "SELECT c.oid, t.tgname::text, pg_get_triggerdef(t.oid), t.tgenabled::text, t.tgtype & 1 = 1
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_trigger t ON t.tgrelid = c.oid
    JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace pn ON pn.oid = p.pronamespace
    WHERE NOT t.tgisinternal AND pn.nspname <> 'greenlight' AND ",
    table_relation!(),
    " ORDER BY c.oid, t.tgname"
);

const SEQUENCES: &str = concat!(
    "SELECT n.nspname::text, c.relname::text, format_type(s.seqtypid, NULL), s.seqincrement, s.seqmin, s.seqmax, s.seqcycle,
        (SELECT quote_ident(tn.nspname) || '.' || quote_ident(t.relname) || '.' || quote_ident(a.attname)
            FROM pg_depend d JOIN pg_class t ON t.oid = d.refobjid JOIN pg_namespace tn ON tn.oid = t.relnamespace
            JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
                AND d.deptype IN ('a', 'i') LIMIT 1)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_sequence s ON s.seqrelid = c.oid
    WHERE c.relkind = 'S' AND ",
    user_relation!()
);

const VIEWS: &str = concat!(
    "SELECT n.nspname::text, c.relname::text, pg_get_viewdef(c.oid), c.relkind = 'm', c.relispopulated,
        EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
            AND i.indexprs IS NULL)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('v', 'm') AND ",
    user_relation!()
);

// An aggregate has no definition text of the server's own. What a type made for itself (the constructors of a range) goes
// with the type.
const FUNCTIONS: &str = concat!(
    "SELECT quote_ident(n.nspname) || '.' || quote_ident(p.proname) || '(' || pg_get_function_identity_arguments(p.oid) || ')',
        CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) ELSE
            (SELECT format('AGGREGATE (SFUNC = %s, STYPE = %s, FINALFUNC = %s, COMBINEFUNC = %s, INITCOND = %L)',
                g.aggtransfn::regprocedure, format_type(g.aggtranstype, NULL), g.aggfinalfn, g.aggcombinefn, g.agginitval)
            FROM pg_aggregate g WHERE g.aggfnoid = p.oid) END
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE ",
    user_schema!("n"),
    " AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid
        AND e.deptype IN ('e', 'i'))"
);

const TYPES: &str = concat!(
    "SELECT quote_ident(n.nspname) || '.' || quote_ident(t.typname),
        CASE t.typtype
        WHEN 'e' THEN 'ENUM ' || (SELECT coalesce(string_agg(quote_literal(l.enumlabel), ', ' ORDER BY l.enumsortorder), '')
            FROM pg_enum l WHERE l.enumtypid = t.oid)
        WHEN 'd' THEN 'DOMAIN ' || format_type(t.typbasetype, t.typtypmod) || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END
            || coalesce(' DEFAULT ' || t.typdefault, '')
            || coalesce((SELECT string_agg(' ' || pg_get_constraintdef(k.oid), '' ORDER BY k.conname)
                FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'), '')
        WHEN 'c' THEN 'COMPOSITE ' || (SELECT coalesce(string_agg(
                quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum), '')
            FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)
        ELSE 'RANGE ' || (SELECT format_type(r.rngsubtype, NULL) || ' ' || r.rngsubdiff::text
            FROM pg_range r WHERE r.rngtypid = t.oid) END
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
    WHERE (t.typtype IN ('e', 'd', 'r') OR (t.typtype = 'c' AND c.relkind = 'c')) AND ",
    user_schema!("n"),
    " AND ",
    not_of_extension!("pg_type", "t.oid")
);

const EXTENSIONS: &str = "SELECT extname::text, extversion FROM pg_extension";

const SCHEMAS: &str = concat!(
    "SELECT n.nspname::text FROM pg_namespace n WHERE ",
    user_schema!("n"),
    " AND ",
    not_of_extension!("pg_namespace", "n.oid"),
    " ORDER BY 1"
);

const OTHERS: &str = concat!(
    "SELECT format('policy %I on %I.%I', o.polname, n.nspname, c.relname),
        format('%s %s TO %s USING (%s) WITH CHECK (%s)', o.polcmd, o.polpermissive,
            (SELECT string_agg(coalesce(r.rolname::text, 'public'), ', ' ORDER BY r.rolname)
                FROM unnest(o.polroles) one LEFT JOIN pg_roles r ON r.oid = one),
            pg_get_expr(o.polqual, o.polrelid), pg_get_expr(o.polwithcheck, o.polrelid))
    FROM pg_policy o JOIN pg_class c ON c.oid = o.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE ",
    user_relation!(),
    " UNION ALL SELECT format('rule %I on %I.%I', r.rulename, n.nspname, c.relname), pg_get_ruledef(r.oid)
    FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE r.rulename <> '_RETURN' AND ",
    user_relation!(),
    " UNION ALL SELECT format('statistics %I.%I', n.nspname, s.stxname), pg_get_statisticsobjdef(s.oid)
    FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
    WHERE ",
    user_schema!("n"),
    " AND ",
    not_of_extension!("pg_statistic_ext", "s.oid")
);

async fn texts(client: &Client, sql: &str) -> Result<BTreeMap<String, String>, tokio_postgres::Error> {
    let rows = client.query(sql, &[]).await?;
    // No definition: dropped between the query's snapshot and the server's own look.
    let text = |row: &Row| Ok(row.try_get::<_, Option<String>>(1)?.map(|text| (row.try_get(0), text)));
    let pairs = rows.iter().map(text).filter_map(Result::transpose);
    pairs.map(|pair| pair.and_then(|(name, text)| Ok((name?, text)))).collect()
}

/// Rows that belong to tables, by the table's oid, which is their first column.
async fn by_table<T>(
    client: &Client,
    sql: &str,
    make: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
) -> Result<BTreeMap<u32, Vec<T>>, tokio_postgres::Error> {
    let mut found: BTreeMap<u32, Vec<T>> = BTreeMap::new();
    for row in client.query(sql, &[]).await? {
        found.entry(row.try_get(0)?).or_default().push(make(&row)?);
    }
    Ok(found)
}

/// An index, and what of it is the table's.
struct IndexRow {
    index: Index,
    primary: bool,
    replica_identity: bool,
    keys: Vec<String>,
}

fn index(row: &Row) -> Result<IndexRow, tokio_postgres::Error> {
    let keys: Vec<String> = row.try_get::<_, Option<_>>(8)?.unwrap_or_default();
    let fit = row.try_get::<_, Option<bool>>(7)?.unwrap_or(false);
    Ok(IndexRow {
        index: Index {
            name: row.try_get(1)?,
            definition: text_or_gone(row, 2)?,
            unique: row.try_get(3)?,
            valid: row.try_get(4)?,
            identity_columns: fit.then(|| keys.clone()),
        },
        primary: row.try_get(5)?,
        replica_identity: row.try_get(6)?,
        keys,
    })
}

fn column(row: &Row) -> Result<Column, tokio_postgres::Error> {
    Ok(Column {
        name: row.try_get(1)?,
        type_name: row.try_get(2)?,
        builtin_type: row.try_get(3)?,
        not_null: row.try_get(4)?,
        default: row.try_get(5)?,
        identity: row.try_get(6)?,
        generated: row.try_get(7)?,
        collation: row.try_get(8)?,
    })
}

fn constraint(row: &Row) -> Result<Constraint, tokio_postgres::Error> {
    let (name, kind) = (row.try_get(1)?, row.try_get(2)?);
    Ok(Constraint { name, kind, definition: text_or_gone(row, 3)?, validated: row.try_get(4)? })
}

fn trigger(row: &Row) -> Result<Trigger, tokio_postgres::Error> {
    let (name, enabled) = (row.try_get(1)?, row.try_get(3)?);
    Ok(Trigger { name, definition: text_or_gone(row, 2)?, enabled, row_level: row.try_get(4)? })
}

/// A definition; empty when the object was dropped between the query's snapshot and the server's own look.
fn text_or_gone(row: &Row, at: usize) -> Result<String, tokio_postgres::Error> {
    Ok(row.try_get::<_, Option<String>>(at)?.unwrap_or_default())
}

async fn tables(client: &Client) -> Result<BTreeMap<RelationNameKey, Table>, tokio_postgres::Error> {
    let rows = client.query(TABLES, &[]).await?;
    let mut columns = by_table(client, COLUMNS, column).await?;
    let mut constraints = by_table(client, CONSTRAINTS, constraint).await?;
    let mut indexes = by_table(client, INDEXES, index).await?;
    let mut triggers = by_table(client, TRIGGERS, trigger).await?;
    let family = Family::of(&rows)?;
    let mut tables = BTreeMap::new();
    for row in &rows {
        let oid: u32 = row.try_get(0)?;
        let indexes = indexes.remove(&oid).unwrap_or_default();
        let primary = indexes.iter().find(|index| index.primary);
        let replica = indexes.iter().find(|index| index.replica_identity).map(|index| index.index.name.clone());
        let relation = RelationName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?);
        let is_partition: bool = row.try_get(6)?;
        let table = Table {
            columns: columns.remove(&oid).unwrap_or_default(),
            constraints: constraints.remove(&oid).unwrap_or_default(),
            triggers: triggers.remove(&oid).unwrap_or_default(),
            identity: match (row.try_get::<_, &str>(5)?, replica) {
                ("d", _) => ReplicaIdentity::Default,
                ("f", _) => ReplicaIdentity::Full,
                ("i", Some(index)) => ReplicaIdentity::Index(index),
                _ => ReplicaIdentity::Nothing,
            },
            primary_key: primary.map(|index| index.keys.clone()).unwrap_or_default(),
            persistence: match row.try_get::<_, &str>(4)? {
                "u" => Persistence::Unlogged,
                "t" => Persistence::Temporary,
                _ => Persistence::Permanent,
            },
            partition: family.partition(oid, row)?,
            inherits: if is_partition { Vec::new() } else { family.parents(oid) },
            row_security: row.try_get(7)?,
            foreign: row.try_get::<_, &str>(3)? == "f",
            indexes: indexes.into_iter().map(|row| row.index).collect(),
            name: relation,
        };
        tables.insert(table.name.to_string(), table);
    }
    Ok(tables)
}

/// Who is part of whom.
struct Family {
    names: BTreeMap<u32, RelationName>,
    parents: BTreeMap<u32, Vec<u32>>,
    partitions: BTreeMap<u32, u32>,
}

impl Family {
    fn of(rows: &[Row]) -> Result<Family, tokio_postgres::Error> {
        let mut family = Family { names: BTreeMap::new(), parents: BTreeMap::new(), partitions: BTreeMap::new() };
        for row in rows {
            let oid: u32 = row.try_get(0)?;
            family.names.insert(oid, RelationName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?));
            let parents = row.try_get::<_, Option<Vec<u32>>>(10)?.unwrap_or_default();
            if row.try_get(6)? {
                family.partitions.extend(parents.first().map(|parent| (oid, *parent)));
            }
            family.parents.insert(oid, parents);
        }
        Ok(family)
    }

    fn parents(&self, oid: u32) -> Vec<RelationName> {
        let parents = self.parents.get(&oid).into_iter().flatten();
        parents.filter_map(|parent| self.names.get(parent).cloned()).collect()
    }

    fn partition(&self, oid: u32, row: &Row) -> Result<Partition, tokio_postgres::Error> {
        let key: Option<String> = row.try_get(8)?;
        let bound: Option<String> = row.try_get(9)?;
        let mut root = oid;
        while let Some(parent) = self.partitions.get(&root) {
            root = *parent;
        }
        let parent = self.partitions.get(&oid).and_then(|parent| self.names.get(parent));
        Ok(match (parent, self.names.get(&root), key) {
            (Some(parent), Some(root), key) => {
                Partition::Of { parent: parent.clone(), root: root.clone(), bound: bound.unwrap_or_default(), key }
            }
            (_, _, Some(key)) => Partition::Root { key },
            _ => Partition::None,
        })
    }
}

async fn sequences(client: &Client) -> Result<BTreeMap<RelationNameKey, Sequence>, tokio_postgres::Error> {
    let rows = client.query(SEQUENCES, &[]).await?;
    let sequence = |row: &Row| {
        let name = RelationName::new(get::<String>(row, 0)?, get::<String>(row, 1)?);
        let sequence = Sequence {
            name: name.clone(),
            type_name: row.try_get(2)?,
            increment: row.try_get(3)?,
            minimum: row.try_get(4)?,
            maximum: row.try_get(5)?,
            cycle: row.try_get(6)?,
            owned_by: row.try_get(7)?,
        };
        Ok((name.to_string(), sequence))
    };
    rows.iter().map(sequence).collect()
}

async fn views(client: &Client) -> Result<BTreeMap<RelationNameKey, View>, tokio_postgres::Error> {
    let rows = client.query(VIEWS, &[]).await?;
    let view = |row: &Row| {
        let name = RelationName::new(get::<String>(row, 0)?, get::<String>(row, 1)?);
        let view = View {
            name: name.clone(),
            definition: text_or_gone(row, 2)?,
            materialized: row.try_get(3)?,
            populated: row.try_get(4)?,
            unique_index: row.try_get(5)?,
        };
        Ok((name.to_string(), view))
    };
    rows.iter().map(view).collect()
}

fn get<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, tokio_postgres::Error> {
    row.try_get(at)
}
