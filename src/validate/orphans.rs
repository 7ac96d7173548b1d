//! Rows whose foreign key names a row that is not there, on the side that is to serve.
//!
//! Neither side checks a key that only the other has: an apply worker runs with the replica role, in which no foreign key is checked
//! and no referential action fires. So a row that is deleted where the key is not known leaves orphans where it is, under a key that
//! says it is valid. Such keys are counted out before each window to the side that has them.
//!
//! Keys that compare values by what somebody else wrote are left out, as are those over periods: preflight asks for a word for them.

use super::{Difference, Findings, Progress, Validator};
use crate::postgres::client::{Session, SessionOptions, cell};
use crate::postgres::content::{self, Content, text_of};
use crate::word::{Endpoint, PortError, RelationName, Side, quote_ident, quote_literal};
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_postgres::Row;

pub(super) const NAME: &str = "foreign keys";

/// Looking at all rows of a large table.
const LIMIT: Duration = Duration::from_hours(1);
/// Orphans of one key that are shown.
const SHOWN_MAX: usize = 5;

#[derive(Debug)]
pub(super) struct Orphans {
    pub(super) blue: Endpoint,
    pub(super) green: Endpoint,
    /// Whose keys are counted out.
    pub(super) on: Side,
    pub(super) application_name: String,
}

#[async_trait]
impl Validator for Orphans {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn check(&self, progress: Progress<'_>) -> Result<Findings, PortError> {
        let [blue, green] = [(&self.blue, "blue"), (&self.green, "green")].map(async |(at, name)| {
            content::open(at, SessionOptions::ours(&self.application_name, LIMIT, Duration::from_secs(2)), name).await
        });
        let (blue, green) = tokio::try_join!(blue, green)?;
        let (session, other) = if self.on == Side::Blue { (&blue, &green) } else { (&green, &blue) };
        let known: BTreeSet<(RelationName, String)> =
            keys(other).await?.into_iter().map(|key| (key.table, key.definition)).collect();
        let mut wanted = keys(session).await?;
        wanted.retain(|key| key.plain && !known.contains(&(key.table.clone(), key.definition.clone())));
        let mut findings = Findings::default();
        for (at, key) in wanted.iter().enumerate() {
            progress(&format!("{} of {}", key.name, key.table), at as u64, wanted.len() as u64);
            findings.differences.extend(self.orphans(session, key).await?);
        }
        Ok(findings)
    }
}

impl Orphans {
    async fn orphans(&self, session: &Session, key: &ForeignKey) -> Result<Vec<Difference>, PortError> {
        let attempted = format!("count the orphans of `{}` on {}", key.name, self.on);
        let content = Content::look(session, &key.table, &[]).await?;
        let which = key.which(content.from());
        let count: i64 =
            match content.read(session, &attempted, &format!("SELECT pg_catalog.count(*) FROM {which}")).await?.first() {
                Some(row) => cell(row, 0)?,
                None => return Err(PortError::transient(attempted).because("an empty answer")),
            };
        if count == 0 {
            return Ok(Vec::new());
        }
        let shown = content.read(session, &attempted, &format!("SELECT {} FROM {which} LIMIT {SHOWN_MAX}", key.text())).await?;
        let named: Vec<String> = shown.iter().map(|row| cell(row, 0)).collect::<Result<_, _>>()?;
        let what = format!(
            "{count} rows on {} name rows that are not there by `{}` ({}), which only {} has, such as [{}]; take them away there with `SET \
             session_replication_role = replica; DELETE FROM {which}`",
            self.on,
            key.name,
            key.definition,
            self.on,
            named.join("], [")
        );
        Ok(vec![Difference { object: key.table.to_string(), key: None, what }])
    }
}

struct ForeignKey {
    name: String,
    table: RelationName,
    definition: String,
    /// For `FROM`.
    target: String,
    own: Vec<String>,
    named: Vec<String>,
    /// As `OPERATOR(pg_catalog.=)`: between a column that is named and one of ours.
    operators: Vec<String>,
    /// MATCH FULL: a row that has one of the columns must have all.
    full: bool,
    primary_key: Vec<String>,
    /// Its values are compared by what PostgreSQL or a superuser brought.
    plain: bool,
}

impl ForeignKey {
    /// A query's `FROM` and `WHERE`: the rows that name none.
    fn which(&self, from: &str) -> String {
        let is_null = |column: &String| format!("orphan.{} IS NOT DISTINCT FROM NULL", quote_ident(column));
        let nulls = self.own.iter().map(is_null).collect::<Vec<_>>().join(if self.full { " AND " } else { " OR " });
        let equal = self.own.iter().zip(&self.named).zip(&self.operators);
        let equal =
            equal.map(|((own, named), operator)| format!("named.{} {operator} orphan.{}", quote_ident(named), quote_ident(own)));
        format!(
            "{from} AS orphan WHERE NOT ({nulls}) AND NOT EXISTS (SELECT FROM {} AS named WHERE {})",
            self.target,
            equal.collect::<Vec<_>>().join(" AND ")
        )
    }

    /// `id=7, order_id=9` of such a row: its key, and what it names.
    fn text(&self) -> String {
        let columns = self.primary_key.iter().chain(self.own.iter().filter(|own| !self.primary_key.contains(own)));
        let part = |name: &String| {
            format!("pg_catalog.concat({}::pg_catalog.text, {})", quote_literal(&format!("{name}=")), text_of(name))
        };
        format!("pg_catalog.concat_ws(', ', {})", columns.map(part).collect::<Vec<_>>().join(", "))
    }
}

/// Those that are to hold: a key that was never validated promises nothing of old rows.
const KEYS: &str = "
    SELECT k.conname::text, n.nspname::text, c.relname::text, pg_get_constraintdef(k.oid),
        CASE p.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || format('%I.%I', pn.nspname, p.relname),
        (SELECT array_agg(a.attname::text ORDER BY o.at) FROM unnest(k.conkey) WITH ORDINALITY AS o (no, at)
            JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = o.no),
        (SELECT array_agg(a.attname::text ORDER BY o.at) FROM unnest(k.confkey) WITH ORDINALITY AS o (no, at)
            JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = o.no),
        (SELECT array_agg(format('OPERATOR(%I.%s)', s.nspname, x.oprname) ORDER BY o.at)
            FROM unnest(k.conpfeqop) WITH ORDINALITY AS o (no, at)
            JOIN pg_operator x ON x.oid = o.no JOIN pg_namespace s ON s.oid = x.oprnamespace),
        k.confmatchtype = 'f',
        coalesce((SELECT array_agg(a.attname::text ORDER BY o.at) FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS o (no, at)
            JOIN pg_attribute a ON a.attnum = o.no
            WHERE i.indrelid = k.conrelid AND i.indisprimary AND a.attrelid = k.conrelid), '{}'),
        NOT coalesce((to_jsonb(k) ->> 'conperiod')::bool, false)
            AND (SELECT bool_and(f.proowner IN (SELECT oid FROM pg_roles WHERE rolsuper)) FROM unnest(k.conpfeqop) AS o (no)
                JOIN pg_operator x ON x.oid = o.no JOIN pg_proc f ON f.oid = x.oprcode)
            AND NOT EXISTS (SELECT FROM pg_attribute a JOIN pg_cast x ON x.castsource = a.atttypid
                WHERE x.castcontext = 'i' AND x.oid >= 16384
                    AND (a.attrelid, a.attnum) IN (SELECT k.conrelid, unnest(k.conkey) UNION SELECT k.confrelid, unnest(k.confkey)))
    FROM pg_constraint k
    JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
    WHERE k.contype = 'f' AND k.convalidated AND k.conparentid = 0 AND n.nspname <> 'greenlight' AND c.relpersistence = 'p'
    ORDER BY 2, 3, 1";

async fn keys(session: &Session) -> Result<Vec<ForeignKey>, PortError> {
    let rows = session.read("read the foreign keys", KEYS, &[]).await?;
    let read = |row: &Row| {
        Ok(ForeignKey {
            name: cell(row, 0)?,
            table: RelationName::new(cell::<String>(row, 1)?, cell::<String>(row, 2)?),
            definition: cell(row, 3)?,
            target: cell(row, 4)?,
            own: cell(row, 5)?,
            named: cell(row, 6)?,
            operators: cell(row, 7)?,
            full: cell(row, 8)?,
            primary_key: cell(row, 9)?,
            plain: cell(row, 10)?,
        })
    };
    rows.iter().map(read).collect()
}
