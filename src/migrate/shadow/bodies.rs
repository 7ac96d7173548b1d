//! What a statement does by its text and by the bodies of what it calls, found by the server's names. In a shadow without rows a
//! loop is never entered: what stands in it is read.

use super::super::TableWrite;
use super::super::statements::{self, Effects, Statement, StatementKind, Touch, WrittenName};
use super::known::Known;
use super::scratch::refused;
use crate::word::{PortError, RelationName, quote_ident};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::{Client, Error, Row};

/// What else is asked in the session of the migration. As the functions of the watch, each reads names as PostgreSQL's own.
pub(super) const BODIES: &str = "
    CREATE FUNCTION greenlight.named(relation oid) RETURNS TABLE (oid oid, schema_name text, table_name text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
        SELECT c.oid, n.nspname::text, c.relname::text
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = named.relation
    $$;
    CREATE FUNCTION greenlight.tables(relations oid[]) RETURNS TABLE (oid oid, schema_name text, table_name text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
        SELECT c.oid, n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = ANY (relations) AND c.relkind IN ('r', 'p') AND n.nspname NOT IN ('greenlight', 'pg_catalog', 'pg_toast')
    $$;
    CREATE FUNCTION greenlight.sources(relation oid) RETURNS TABLE (source oid, called text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
        WITH RECURSIVE reads AS (
            SELECT sources.relation AS oid
            UNION
            SELECT d.refobjid FROM reads s JOIN pg_rewrite r ON r.ev_class = s.oid
                JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
        )
        SELECT s.oid, NULL FROM reads s
        UNION ALL
        SELECT NULL, p.proname::text FROM reads s JOIN pg_rewrite r ON r.ev_class = s.oid
            JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_proc'::regclass
            JOIN pg_proc p ON p.oid = d.refobjid
    $$;
    CREATE FUNCTION greenlight.bodies() RETURNS TABLE (name text, definition text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
        SELECT p.proname::text, pg_get_functiondef(p.oid)
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
        WHERE p.prokind <> 'a' AND l.lanname NOT IN ('internal', 'c')
            AND n.nspname NOT IN ('greenlight', 'pg_catalog', 'information_schema')
    $$;
    CREATE FUNCTION greenlight.sequences() RETURNS TABLE (name text, stands text, called bool)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        FOR name IN SELECT format('%I.%I', s.schemaname, s.sequencename) FROM pg_sequences s WHERE s.schemaname <> 'greenlight' LOOP
            EXECUTE 'SELECT last_value::text, is_called FROM ' || name INTO stands, called;
            RETURN NEXT;
        END LOOP;
    END $$";

/// Where rows of blue's tables have come to, and the bodies of functions.
#[derive(Default)]
pub(super) struct Bodies {
    /// By object id of a table that was not there before the migrations: of which of blue's its rows are made.
    made_of: BTreeMap<u32, BTreeSet<RelationName>>,
    /// Definitions by name; `None` where they may have changed.
    definitions: Option<BTreeMap<String, Vec<String>>>,
}

/// A statement with all that it calls.
pub(super) struct Whole {
    pub(super) effects: Effects,
    /// Why it may do more than that.
    pub(super) unread: Option<String>,
}

impl Bodies {
    /// `session`: the migration's own.
    pub(super) async fn whole(&mut self, session: &Client, statement: &Statement) -> Result<Whole, PortError> {
        let mut whole = Whole { effects: statement.effects.clone(), unread: None };
        if whole.effects.unread {
            whole.unread = Some("makes statements of its own, or cannot be read".to_owned());
        }
        let names = |calls: &BTreeSet<WrittenName>| calls.iter().map(|call| call.name.clone()).collect::<Vec<_>>();
        let mut called: BTreeSet<String> = names(&whole.effects.calls).into_iter().collect();
        for name in &statement.effects.reads {
            if let Some((oid, _)) = resolve(session, name).await? {
                called.extend(sources(session, oid).await?.1);
            }
        }
        let mut todo: Vec<String> = called.iter().cloned().collect();
        while let Some(name) = todo.pop() {
            let definitions = self.definitions(session).await?;
            for definition in definitions.get(&name).map_or(&[][..], Vec::as_slice) {
                let effects = statements::of_function(definition);
                if effects.unread && whole.unread.is_none() {
                    whole.unread = Some(format!("calls `{name}`, which makes statements of its own, or cannot be read"));
                }
                todo.extend(names(&effects.calls).into_iter().filter(|name| called.insert(name.clone())));
                whole.effects.add(effects);
            }
        }
        Ok(whole)
    }

    async fn definitions(&mut self, session: &Client) -> Result<&BTreeMap<String, Vec<String>>, PortError> {
        if self.definitions.is_none() {
            let rows = session.query("SELECT name, definition FROM greenlight.bodies()", &[]).await;
            let rows = rows.map_err(|e| refused("read the functions in the shadow", &e))?;
            let mut definitions: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for row in rows {
                let read = |e: Error| refused("read the functions in the shadow", &e);
                definitions.entry(row.try_get(0).map_err(read)?).or_default().push(row.try_get(1).map_err(read)?);
            }
            self.definitions = Some(definitions);
        }
        Ok(self.definitions.get_or_insert_default())
    }

    /// After a statement: it may have made functions.
    pub(super) fn forget(&mut self, statement: &Statement, whole: &Whole) {
        let makes_none = statement.kind == StatementKind::MayWrite
            && whole.effects == statement.effects
            && !statement.text.trim_start().get(..2).is_some_and(|word| word.eq_ignore_ascii_case("do"));
        if !makes_none {
            self.definitions = None;
        }
    }

    /// Rows of blue's tables that come into tables which blue has not: `copy`. `seen_read` and `seen_written`: what was seen besides
    /// what the text says, by object id.
    pub(super) async fn copies(
        &mut self,
        session: &Client,
        known: &BTreeMap<u32, Known>,
        whole: &Whole,
        seen_read: &BTreeSet<u32>,
        seen_written: &BTreeSet<u32>,
    ) -> Result<Vec<TableWrite>, PortError> {
        let mut into: Vec<(u32, RelationName)> = tables(session, seen_written).await?;
        for touch in &whole.effects.touches {
            let (Touch::Write { table, .. } | Touch::Make { table }) = touch else { continue };
            into.extend(resolve(session, table).await?);
        }
        into.retain(|(oid, _)| !known.contains_key(oid));
        if into.is_empty() {
            return Ok(Vec::new());
        }
        let mut read = seen_read.clone();
        for name in &whole.effects.reads {
            match resolve(session, name).await? {
                Some((oid, _)) => read.extend(sources(session, oid).await?.0),
                // By the search path of the function in which it stands.
                None => read.extend(known.iter().filter(|(_, one)| one.name.name == name.name).map(|(oid, _)| *oid)),
            }
        }
        let of_blue = read.iter().filter_map(|oid| known.get(oid)).filter(|one| one.is_table()).map(|one| one.name.clone());
        let passed_on = read.iter().filter_map(|oid| self.made_of.get(oid)).flatten().cloned();
        let from: BTreeSet<RelationName> = of_blue.chain(passed_on).collect();
        let mut copies: Vec<TableWrite> = Vec::new();
        for (oid, table) in into {
            self.made_of.entry(oid).or_default().extend(from.iter().cloned());
            // One for the time of the session holds nothing afterwards.
            if table.schema.starts_with("pg_temp") {
                continue;
            }
            copies.extend(from.iter().map(|from| TableWrite {
                table: from.clone(),
                kind: "copy".to_owned(),
                columns: vec![table.to_string()],
                fires: Vec::new(),
            }));
        }
        Ok(copies)
    }
}

/// Where each sequence stands, by its name as SQL, and whether it has given that value.
pub(super) async fn sequences(look: &Client) -> Result<BTreeMap<String, (String, bool)>, PortError> {
    let rows = look.query("SELECT name, stands, called FROM greenlight.sequences()", &[]).await;
    let read = |row: &Row| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?)));
    let found = rows.and_then(|rows| rows.iter().map(read).collect());
    found.map_err(|e| refused("read where the sequences stand", &e))
}

/// The relation that a name stands for now, to the migration.
pub(super) async fn resolve(session: &Client, name: &WrittenName) -> Result<Option<(u32, RelationName)>, PortError> {
    let text = match &name.schema {
        Some(schema) => format!("{}.{}", quote_ident(schema), quote_ident(&name.name)),
        None => quote_ident(&name.name),
    };
    let sql = "SELECT oid, schema_name, table_name FROM greenlight.named(pg_catalog.to_regclass($1)::pg_catalog.oid)";
    let found = session.query(sql, &[&text]).await.and_then(|rows| rows.first().map(relation).transpose());
    found.map_err(|e| refused("find what a statement names", &e))
}

async fn tables(session: &Client, oids: &BTreeSet<u32>) -> Result<Vec<(u32, RelationName)>, PortError> {
    if oids.is_empty() {
        return Ok(Vec::new());
    }
    let oids: Vec<u32> = oids.iter().copied().collect();
    let rows = session.query("SELECT oid, schema_name, table_name FROM greenlight.tables($1)", &[&oids]).await;
    let found = rows.and_then(|rows| rows.iter().map(relation).collect());
    found.map_err(|e| refused("find what a statement wrote", &e))
}

fn relation(row: &Row) -> Result<(u32, RelationName), Error> {
    Ok((row.try_get(0)?, RelationName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?)))
}

/// What a table or view is made of, itself included, and the functions that views call.
async fn sources(session: &Client, relation: u32) -> Result<(Vec<u32>, Vec<String>), PortError> {
    let rows = session.query("SELECT source, called FROM greenlight.sources($1)", &[&relation]).await;
    let found = rows.and_then(|rows| {
        let (mut sources, mut called) = (Vec::new(), Vec::new());
        for row in rows {
            sources.extend(row.try_get::<_, Option<u32>>(0)?);
            called.extend(row.try_get::<_, Option<String>>(1)?);
        }
        Ok((sources, called))
    });
    found.map_err(|e| refused("find what a view is made of", &e))
}
