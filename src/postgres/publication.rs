//! Publications: an explicit list of tables, through the root of a partitioned one, with the marker among them.

use super::{
    PublishedTable,
    client::{Session, cell},
    server::PgServer,
};
use crate::plan::SCHEMA;
use crate::word::{PortError, RelationName, quote_ident};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::types::Type;

/// Tables changed in one transaction: each is a lock, and the room for locks is shared with the applications.
const BATCH: usize = 500;

const MARKER: &str = "greenlight.marker";

/// A table's column list, in no order; `None`: the whole table.
type Lists = BTreeMap<RelationName, Option<BTreeSet<String>>>;

pub(super) async fn read(server: &PgServer, name: &str) -> Result<Option<Vec<PublishedTable>>, PortError> {
    let session = server.session().await?;
    if kind(&session, name).await?.is_none() {
        return Ok(None);
    }
    let tables = published(&session, name).await?;
    Ok(Some(tables.into_iter().filter(|published| published.table.schema != SCHEMA).collect()))
}

#[derive(Clone, Copy)]
struct Kind {
    all_tables: bool,
    via_root: bool,
}

async fn kind(session: &Session, name: &str) -> Result<Option<Kind>, PortError> {
    let sql = "SELECT puballtables OR EXISTS (SELECT FROM pg_publication_namespace WHERE pnpubid = p.oid), pubviaroot \
               FROM pg_publication p WHERE pubname = $1";
    let rows = session.read(&format!("read publication `{name}`"), sql, &[(&name, Type::NAME)]).await?;
    rows.first().map(|row| Ok(Kind { all_tables: cell(row, 0)?, via_root: cell(row, 1)? })).transpose()
}

async fn published(session: &Session, name: &str) -> Result<Vec<PublishedTable>, PortError> {
    let sql = "SELECT n.nspname, c.relname, \
                 (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a \
                  WHERE r.prattrs IS NOT NULL AND a.attrelid = c.oid AND a.attnum = ANY (r.prattrs)) \
               FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid \
               JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE p.pubname = $1 ORDER BY 1, 2";
    let rows = session.read(&format!("read the tables of publication `{name}`"), sql, &[(&name, Type::NAME)]).await?;
    rows.iter()
        .map(|row| {
            let table = RelationName::new(cell::<&str>(row, 0)?, cell::<&str>(row, 1)?);
            Ok(PublishedTable { table, columns: cell(row, 2)? })
        })
        .collect()
}

pub(super) async fn ensure(server: &PgServer, name: &str, tables: &[PublishedTable]) -> Result<(), PortError> {
    let session = server.session().await?;
    let attempted = format!("set up publication `{name}`");
    let quoted = quote_ident(name);
    match kind(&session, name).await? {
        Some(Kind { all_tables: true, .. }) => {
            return Err(PortError::refused(attempted)
                .because("there is one of this name that Greenlight has not made: it publishes whole schemas or all tables")
                .hint(format!("drop it if nothing uses it: DROP PUBLICATION {quoted}")));
        }
        Some(Kind { via_root: true, .. }) => (),
        Some(Kind { via_root: false, .. }) => {
            session.batch(&attempted, &format!("ALTER PUBLICATION {quoted} SET (publish_via_partition_root = true)")).await?;
        }
        None => {
            let options = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true";
            session.batch(&attempted, &format!("CREATE PUBLICATION {quoted} FOR TABLE {MARKER} WITH ({options})")).await?;
        }
    }
    let (now, wanted) = (lists(&published(&session, name).await?), wanted(tables));
    for statements in changes(&quoted, &now, &wanted) {
        session.batch(&attempted, &statements).await?;
    }
    Ok(())
}

fn wanted(tables: &[PublishedTable]) -> Lists {
    let marker = PublishedTable { table: RelationName::new(SCHEMA, "marker"), columns: None };
    let mut wanted = lists(tables);
    wanted.extend(lists(&[marker]));
    wanted
}

fn lists(tables: &[PublishedTable]) -> Lists {
    tables.iter().map(|t| (t.table.clone(), t.columns.clone().map(|columns| columns.into_iter().collect()))).collect()
}

/// Transactions that lead from one to the other. A table goes out and comes in with its new list in one of them, so that no
/// change of its rows falls between.
fn changes(publication: &str, now: &Lists, wanted: &Lists) -> Vec<String> {
    let differs = |(table, list): &(&RelationName, &Option<BTreeSet<String>>), other: &Lists| other.get(*table) != Some(*list);
    let out = now.iter().filter(|entry| differs(entry, wanted)).map(|(table, _)| table);
    let into = wanted.iter().filter(|entry| differs(entry, now)).map(|(table, _)| table);
    let touched: BTreeSet<&RelationName> = out.chain(into).collect();
    let touched: Vec<&RelationName> = touched.into_iter().collect();
    touched
        .chunks(BATCH)
        .map(|tables| {
            let dropped: Vec<String> = tables.iter().filter(|t| now.contains_key(**t)).map(|t| t.sql()).collect();
            let added: Vec<String> = tables.iter().filter_map(|t| Some(listed(t, wanted.get(*t)?.as_ref()))).collect();
            let mut statements = Vec::new();
            if !dropped.is_empty() {
                statements.push(format!("ALTER PUBLICATION {publication} DROP TABLE {}", dropped.join(", ")));
            }
            if !added.is_empty() {
                statements.push(format!("ALTER PUBLICATION {publication} ADD TABLE {}", added.join(", ")));
            }
            statements.join("; ")
        })
        .collect()
}

fn listed(table: &RelationName, columns: Option<&BTreeSet<String>>) -> String {
    match columns {
        None => table.sql(),
        Some(columns) => {
            let columns: Vec<String> = columns.iter().map(|column| quote_ident(column)).collect();
            format!("{} ({})", table.sql(), columns.join(", "))
        }
    }
}

pub(super) async fn ensure_none(server: &PgServer, name: &str) -> Result<(), PortError> {
    let sql = format!("DROP PUBLICATION IF EXISTS {}", quote_ident(name));
    server.session().await?.batch(&format!("drop publication `{name}`"), &sql).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, columns: Option<&[&str]>) -> PublishedTable {
        let columns = columns.map(|columns| columns.iter().map(|&c| c.to_owned()).collect());
        PublishedTable { table: RelationName::new("public", name), columns }
    }

    #[test]
    fn only_what_differs_is_changed_and_in_one_transaction() {
        let now = wanted(&[table("same", Some(&["b", "a"])), table("narrowed", None), table("gone", None)]);
        let then = wanted(&[table("same", Some(&["a", "b"])), table("narrowed", Some(&["id", "V"])), table("new", None)]);
        assert_eq!(
            changes("\"p\"", &now, &then),
            [concat!(
                r#"ALTER PUBLICATION "p" DROP TABLE "public"."gone", "public"."narrowed"; "#,
                r#"ALTER PUBLICATION "p" ADD TABLE "public"."narrowed" ("V", "id"), "public"."new""#
            )]
        );
        assert!(changes("\"p\"", &then, &then).is_empty());
    }

    #[test]
    fn many_tables_are_changed_in_several_transactions() {
        let many: Vec<PublishedTable> = (0..1200).map(|n| table(&format!("t{n}"), None)).collect();
        assert_eq!(changes("p", &wanted(&[]), &wanted(&many)).len(), 3);
    }
}
