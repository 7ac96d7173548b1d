//! The rows of somebody else's table, read without running what somebody else wrote.
//!
//! **Invariant:** values become texts by the output functions of their types, and rows are put in order by the operators of
//! the very index that makes their columns a key: both are C functions that only a superuser can have brought. A cast, an operator
//! that is found by its name alone, or a value that is read as a type of the user's own is what their owners made of it, so none
//! of these is in the SQL that is written here. It names the table, its columns, and what the catalogue says of its index; each
//! statement sees first, with the table locked against changes, that the table is still what it was written for, and a session
//! of `open` reads no view that somebody puts in its place.
//!
//! What is left is what the planner does with any query: it works out calls of immutable functions with constant arguments
//! in the table's indexes and statistics. Preflight says where there are any.

use super::client::{Session, SessionOptions, cell};
use super::failure::{self, Effect};
use crate::word::{Endpoint, PortError, RelationName, quote_ident, quote_literal};
use tokio_postgres::{Client, Error, Row, types::Type};

/// Rows by the texts of their keys.
pub type Key = Vec<String>;

/// A session in which tables are read and nothing else is: it changes nothing, writes values as the same texts on every server,
/// and expands no view and no foreign table of the user's.
///
/// # Errors
/// As `Session::open`.
pub async fn open(at: &Endpoint, options: SessionOptions, on: &str) -> Result<Session, PortError> {
    let options = options.with_same_texts().read_only().with("lc_monetary", "C");
    let session = Session::open(at, &options, on).await?;
    // Bytes that are in no encoding are sent as they are. Older minor versions know no such restriction.
    let sql = "SELECT set_config('client_encoding', 'SQL_ASCII', false) WHERE current_setting('server_encoding') = 'SQL_ASCII' \
               UNION ALL SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings \
               WHERE name = 'restrict_nonsystem_relation_kind'";
    session.read("read nothing but tables", sql, &[]).await?;
    Ok(session)
}

/// A column's value as text, `NULL` where it is null, whatever its type. `NULL` is what the value itself is, and not its fields.
pub fn text_of(column: &str) -> String {
    let column = quote_ident(column);
    format!("CASE WHEN {column} IS NOT DISTINCT FROM NULL THEN NULL ELSE pg_catalog.format('%s', {column}) END")
}

/// A table as one server has it.
#[derive(Debug)]
pub struct Content {
    table: RelationName,
    /// For `FROM`: rows of tables that inherit from it are theirs.
    from: String,
    /// Its object id, the names and types of its columns, and how many casts are looked for by themselves.
    shape: String,
    order: Order,
}

/// The order of a table's key.
#[derive(Debug)]
pub struct Order {
    key: Vec<KeyColumn>,
    /// Texts are written with escapes, since their bytes are in no encoding.
    escaped: bool,
}

#[derive(Debug)]
struct KeyColumn {
    name: String,
    /// The index's, where it is not the column's.
    collation: Option<String>,
    /// `<`, `<=`, `=`, `>=`, `>`; `None`: it is put in the order of its text's bytes.
    operators: Option<[String; 5]>,
}

/// One row, for the table of this name; none when it is a view, a foreign table, or not there.
const SHAPE: &str = "SELECT c.oid, c.relkind = 'p', concat_ws(' ', c.oid, c.relkind,
        (SELECT string_agg(concat_ws(' ', a.attname, a.atttypid, a.atttypmod, a.attcollation), ', ' ORDER BY a.attnum)
            FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
        (SELECT count(*) FROM pg_cast x JOIN pg_attribute a ON a.atttypid = x.castsource
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND x.castcontext = 'i')),
        current_setting('server_encoding') = 'SQL_ASCII'
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";

/// The columns of the unique index over just these columns, the primary key's if it is one: name, whether values are read back
/// by the column's own type without one inside it that the user made up, and its operators found without a cast of his; the
/// index's collation where it is not the column's, and its operators. An operator for just this type is found before any cast is
/// looked at; one for all enums is not. An index that is no B-tree has none that give an order; those of the system's own
/// types are taken then.
const KEY: &str = "WITH keys AS (
        SELECT i.indexrelid, i.indisprimary, k.at, a.attname, a.attnotnull, a.atttypid, a.attcollation,
            i.indcollation[k.at - 1] AS collation, o.opcmethod, o.opcfamily, o.opcintype
        FROM pg_index i
        CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY AS k (attnum, opclass, at)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        JOIN pg_opclass o ON o.oid = k.opclass
        WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND k.at <= i.indnkeyatts),
    chosen AS (SELECT indexrelid FROM keys GROUP BY indexrelid, indisprimary
        HAVING array_agg(attname::text) @> $2::text[] AND array_agg(attname::text) <@ $2::text[] AND bool_and(attnotnull)
        ORDER BY indisprimary DESC, indexrelid LIMIT 1)
    SELECT k.attname::text,
        CASE t.typtype WHEN 'b' THEN t.typcategory <> 'A' OR (e.typtype IN ('b', 'e') AND e.typcategory <> 'A') WHEN 'e' THEN true
            WHEN 'd' THEN b.typtype = 'b' AND b.typcategory <> 'A'
            WHEN 'r' THEN s.typtype = 'b' AND s.typcategory <> 'A' ELSE false END
            AND (k.opcintype IN (t.oid, t.typbasetype) OR NOT EXISTS (SELECT FROM pg_cast x
                WHERE x.castsource IN (t.oid, t.typbasetype) AND x.castcontext = 'i' AND x.oid >= 16384)),
        (SELECT format('%I.%I', cn.nspname, l.collname) FROM pg_collation l JOIN pg_namespace cn ON cn.oid = l.collnamespace
            WHERE l.oid = k.collation AND k.collation <> k.attcollation),
        (SELECT array_agg(format('OPERATOR(%I.%s)', fn.nspname, p.oprname) ORDER BY m.amopstrategy) FROM pg_amop m
            JOIN pg_operator p ON p.oid = m.amopopr JOIN pg_namespace fn ON fn.oid = p.oprnamespace
            WHERE k.opcmethod = (SELECT oid FROM pg_am WHERE amname = 'btree') AND m.amopfamily = k.opcfamily
                AND m.amoplefttype = k.opcintype AND m.amoprighttype = k.opcintype AND m.amopstrategy BETWEEN 1 AND 5),
        t.oid < 16384
    FROM keys k JOIN chosen USING (indexrelid) JOIN pg_type t ON t.oid = k.atttypid
    LEFT JOIN pg_type e ON e.oid = t.typelem LEFT JOIN pg_type b ON b.oid = t.typbasetype
    LEFT JOIN pg_range r ON r.rngtypid = t.oid LEFT JOIN pg_type s ON s.oid = r.rngsubtype
    ORDER BY array_position($2::text[], k.attname::text)";

impl Content {
    /// What a table is now, and the index that makes `key` a key; an empty one asks for none.
    ///
    /// # Errors
    /// `Refused` when it is no table, or no unique index is on just these columns.
    pub async fn look(session: &Session, table: &RelationName, key: &[String]) -> Result<Content, PortError> {
        let attempted = format!("look at table `{table}`");
        let named = [(&table.schema as _, Type::TEXT), (&table.name as _, Type::TEXT)];
        let rows = session.read(&attempted, SHAPE, &named).await?;
        let row = rows.first().ok_or_else(|| PortError::refused(&attempted).because("there is no table of that name"))?;
        let (relation, partitioned, shape, escaped): (u32, bool, String, bool) =
            (cell(row, 0)?, cell(row, 1)?, cell(row, 2)?, cell(row, 3)?);
        let from = if partitioned { table.sql() } else { format!("ONLY {}", table.sql()) };
        let order = Order::read(session.client(), relation, key, escaped).await;
        let order = order.map_err(|e| failure::of_call(&attempted, Effect::Read, &e))?.ok_or_else(|| {
            let why = format!("it has no unique index on ({}) alone, by which rows could be told apart", key.join(", "));
            PortError::refused(&attempted).because(why)
        })?;
        Ok(Content { table: table.clone(), from, shape, order })
    }

    pub fn order(&self) -> &Order {
        &self.order
    }

    /// For `FROM`.
    pub fn from(&self) -> &str {
        &self.from
    }

    /// Begins a transaction that only reads and in which the table is, and stays, what it was when it was looked at. It ends with
    /// the session, or with `ROLLBACK`: what somebody's code might leave for the end of a transaction never comes to it.
    ///
    /// # Errors
    /// `Transient` when it is another one now; the transaction is open then, too.
    pub async fn begin(&self, session: &Session, attempted: &str) -> Result<(), PortError> {
        let lock = format!("LOCK TABLE {} IN ACCESS SHARE MODE", self.from);
        let named = [(&self.table.schema as _, Type::TEXT), (&self.table.name as _, Type::TEXT)];
        // Sent together, answered in order.
        let (_, _, rows) = futures_util::future::try_join3(
            session.read(attempted, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", &[]),
            session.read(attempted, &lock, &[]),
            session.read(attempted, SHAPE, &named),
        )
        .await?;
        match rows.first() {
            Some(row) if cell::<&str>(row, 2)? == self.shape => Ok(()),
            _ => Err(PortError::transient(attempted).because(format!("table `{}` is being changed", self.table))),
        }
    }

    /// One statement that reads the table, in a transaction of its own.
    ///
    /// # Errors
    /// As `begin`, and those of the statement.
    pub async fn read(&self, session: &Session, attempted: &str, sql: &str) -> Result<Vec<Row>, PortError> {
        let read = match self.begin(session, attempted).await {
            Ok(()) => session.read(attempted, sql, &[]).await,
            Err(error) => Err(error),
        };
        let ended = session.read(attempted, "ROLLBACK", &[]).await;
        let rows = read?;
        ended.map(|_| rows)
    }
}

impl Order {
    /// The order that makes these columns of a table a key; `None` when nothing does. What it names is qualified by its schema
    /// where `pg_catalog` stands first: the session must resolve names by that alone.
    ///
    /// # Errors
    /// Those of the driver.
    pub async fn read(client: &Client, relation: u32, key: &[String], escaped: bool) -> Result<Option<Order>, Error> {
        let mut order = Order { key: Vec::new(), escaped };
        if !key.is_empty() {
            let rows = client.query_typed(KEY, &[(&relation, Type::OID), (&key, Type::TEXT_ARRAY)]).await?;
            order.key = rows.iter().map(key_column).collect::<Result<_, _>>()?;
        }
        Ok((order.key.len() == key.len()).then_some(order))
    }

    /// The key's columns, for a list of what is selected, called `k0`, `k1`, ...
    pub fn values(&self) -> String {
        let named = self.key.iter().enumerate().map(|(at, column)| format!("{} AS k{at}", column.value("")));
        named.collect::<Vec<_>>().join(", ")
    }

    /// Each of the key's columns as text. `of` stands before a column's name: nothing, or such as `t.`.
    pub fn texts(&self, of: &str) -> Vec<String> {
        self.key.iter().map(|column| self.text(&format!("{of}{}", quote_ident(&column.name)))).collect()
    }

    /// A key's value as text, for `constant` to write back.
    fn text(&self, value: &str) -> String {
        let text = format!("pg_catalog.format('%s', {value})");
        if self.escaped { format!("pg_catalog.encode(pg_catalog.textsend({text}), 'escape')") } else { text }
    }

    /// For `ORDER BY`.
    pub fn sorted(&self, of: &str) -> String {
        let sorted = self.key.iter().map(|column| format!("{} USING {}", column.value(of), column.operator(0)));
        sorted.collect::<Vec<_>>().join(", ")
    }

    /// The texts of the greatest key of `table`, which has the columns of `values`.
    pub fn greatest(&self, table: &str) -> Vec<String> {
        let back = self.key.iter().enumerate().map(|(at, column)| format!("k{at} USING {}", column.operator(4)));
        let back = back.collect::<Vec<_>>().join(", ");
        (0..self.key.len())
            .map(|at| format!("(SELECT {} FROM {table} ORDER BY {back} LIMIT 1)", self.text(&format!("k{at}"))))
            .collect()
    }

    /// A condition that holds for the rows past `after`, up to and with `until`.
    pub fn range(&self, of: &str, after: Option<&[String]>, until: Option<&[String]>) -> String {
        let bounds = [after.map(|key| self.beyond(of, key, 4, 4)), until.map(|key| self.beyond(of, key, 0, 1))];
        let bounds: Vec<String> = bounds.into_iter().flatten().collect();
        if bounds.is_empty() { "true".to_owned() } else { bounds.join(" AND ") }
    }

    /// A condition that holds for the row with this key.
    pub fn is(&self, key: &[String]) -> String {
        let parts = self.key.iter().zip(key).map(|(column, value)| self.compared("", column, 2, value));
        format!("({})", parts.collect::<Vec<_>>().join(" AND "))
    }

    /// The row comparison, `strict` in all columns but the last, by one operator if all have the same, as an index answers
    /// it at once; else spelt out.
    fn beyond(&self, of: &str, key: &[String], strict: usize, last: usize) -> String {
        let Some(first) = self.key.first() else { return "true".to_owned() };
        if self.key.iter().all(|column| column.operators == first.operators) {
            let values: Vec<String> = self.key.iter().map(|column| column.value(of)).collect();
            let constants: Vec<String> = key.iter().map(|value| self.constant(value)).collect();
            return format!("ROW({}) {} ROW({})", values.join(", "), first.operator(last), constants.join(", "));
        }
        self.key.iter().zip(key).rev().fold(String::new(), |rest, (column, value)| {
            if rest.is_empty() {
                return self.compared(of, column, last, value);
            }
            let (beyond, same) = (self.compared(of, column, strict, value), self.compared(of, column, 2, value));
            format!("({beyond} OR ({same} AND {rest}))")
        })
    }

    fn compared(&self, of: &str, column: &KeyColumn, operator: usize, value: &str) -> String {
        format!("{} {} {}", column.value(of), column.operator(operator), self.constant(value))
    }

    /// Without a type, so that it takes that of the column that it is compared with.
    fn constant(&self, text: &str) -> String {
        // `encode` has doubled the backslashes, and its escapes are those of an escaped constant.
        if self.escaped { format!("E'{}'", text.replace('\'', "''")) } else { quote_literal(text).trim_start().to_owned() }
    }
}

impl KeyColumn {
    /// The column, or its text in the order of its bytes.
    fn value(&self, of: &str) -> String {
        let column = format!("{of}{}", quote_ident(&self.name));
        match (&self.operators, &self.collation) {
            (None, _) => format!("(pg_catalog.format('%s', {column}) COLLATE pg_catalog.\"C\")"),
            (Some(_), Some(collation)) => format!("{column} COLLATE {collation}"),
            (Some(_), None) => column,
        }
    }

    fn operator(&self, at: usize) -> String {
        self.operators.as_ref().map_or_else(|| system(at), |operators| operators[at].clone())
    }
}

fn system(at: usize) -> String {
    format!("OPERATOR(pg_catalog.{})", ["<", "<=", "=", ">=", ">"][at])
}

fn key_column(row: &Row) -> Result<KeyColumn, Error> {
    // A value of a type that holds others of the user's own would be read by their rules.
    let (readable, operators): (Option<bool>, Option<Vec<String>>) = (row.try_get(1)?, row.try_get(3)?);
    let own: bool = row.try_get(4)?;
    let operators = match operators {
        Some(operators) => operators.try_into().ok(),
        None => own.then(|| [0, 1, 2, 3, 4].map(system)),
    };
    let operators = operators.filter(|_| readable == Some(true));
    Ok(KeyColumn { name: row.try_get(0)?, collation: row.try_get(2)?, operators })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, schema: &str) -> KeyColumn {
        let operators = ["<", "<=", "=", ">=", ">"].map(|operator| format!("OPERATOR({schema}.{operator})"));
        KeyColumn { name: name.to_owned(), collation: None, operators: Some(operators) }
    }

    #[test]
    fn keys_are_compared_by_the_operators_of_their_index_and_never_by_a_name_alone() {
        let key = ["a'b".to_owned(), "2".to_owned()];
        let same = Order { key: vec![column("a", "pg_catalog"), column("b", "pg_catalog")], escaped: false };
        assert_eq!(
            same.range("t.", Some(&key), Some(&key)),
            "ROW(t.\"a\", t.\"b\") OPERATOR(pg_catalog.>) ROW('a''b', '2') \
             AND ROW(t.\"a\", t.\"b\") OPERATOR(pg_catalog.<=) ROW('a''b', '2')"
        );
        assert_eq!(same.range("", None, None), "true");
        assert_eq!(same.sorted(""), "\"a\" USING OPERATOR(pg_catalog.<), \"b\" USING OPERATOR(pg_catalog.<)");
        let mixed = Order { key: vec![column("a", "ext"), column("b", "pg_catalog")], escaped: false };
        assert_eq!(
            mixed.range("", None, Some(&key)),
            "(\"a\" OPERATOR(ext.<) 'a''b' OR (\"a\" OPERATOR(ext.=) 'a''b' AND \"b\" OPERATOR(pg_catalog.<=) '2'))"
        );
        assert_eq!(mixed.is(&key), "(\"a\" OPERATOR(ext.=) 'a''b' AND \"b\" OPERATOR(pg_catalog.=) '2')");
        assert_eq!(
            mixed.greatest("c")[1],
            "(SELECT pg_catalog.format('%s', k1) FROM c ORDER BY k0 USING OPERATOR(ext.>), k1 USING OPERATOR(pg_catalog.>) LIMIT 1)"
        );
        let by_text = Order { key: vec![KeyColumn { operators: None, ..column("a", "") }], escaped: false };
        let text = "(pg_catalog.format('%s', \"a\") COLLATE pg_catalog.\"C\")";
        assert_eq!(by_text.sorted(""), format!("{text} USING OPERATOR(pg_catalog.<)"));
    }

    #[test]
    fn bytes_without_an_encoding_come_back_as_they_went() {
        let ascii = Order { key: vec![column("a", "pg_catalog")], escaped: true };
        assert_eq!(ascii.is(&[r"caf\351's \\".to_owned()]), r#"("a" OPERATOR(pg_catalog.=) E'caf\351''s \\')"#);
        assert_eq!(ascii.texts(""), [r#"pg_catalog.encode(pg_catalog.textsend(pg_catalog.format('%s', "a")), 'escape')"#]);
    }
}
