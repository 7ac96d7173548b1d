//! A migration in batches: what its first comment says, and what its one statement must look like.
//!
//! `:batch` stands for a range of the table's key. With `true` in its place the statement does all at once, as it does in the
//! shadow and for `psql -v batch=true`.

use super::{Statement, Touch, WrittenName, child, line, name_in, set_columns, short};
use crate::word::quote_ident;
use squawk_syntax::{SyntaxKind, SyntaxNode};

/// What stands for the range.
const PLACEHOLDER: &str = ":batch";
/// In its place, and as long, so that all that follows keeps its place.
const EVERY_ROW: &str = "true  ";
/// More is no batch.
const ROWS_MAX: u32 = 1_000_000;

/// How a file runs, by its first comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// In one transaction: no such comment.
    Whole,
    /// `-- greenlight: no-transaction`
    Statements,
    /// `-- greenlight: batches of 5000`, each of so many rows a transaction of its own.
    Batches(u32),
}

/// # Errors
/// What is wrong with the comment.
pub fn manner(sql: &str) -> Result<Manner, String> {
    let first = sql.trim_start().lines().next().unwrap_or_default();
    let comment = first.strip_prefix("--").map(str::trim);
    let Some(says) = comment.and_then(|comment| comment.strip_prefix("greenlight:")).map(str::trim) else {
        return Ok(Manner::Whole);
    };
    if says == "no-transaction" {
        return Ok(Manner::Statements);
    }
    let Some(number) = says.strip_prefix("batches of ") else {
        return Err(format!(
            "`{}` is not known; it is `-- greenlight: no-transaction` or `-- greenlight: batches of 5000`",
            short(first)
        ));
    };
    let number = number.trim().trim_end_matches("rows").trim().parse().ok();
    let rows = number.filter(|rows| (1..=ROWS_MAX).contains(rows));
    rows.map(Manner::Batches).ok_or_else(|| format!("`{}`: a batch has 1 to {ROWS_MAX} rows", short(first)))
}

/// The statement of a migration in batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// How many rows are one batch.
    pub rows: u32,
    pub table: WrittenName,
    /// How the statement calls the table, quoted where that is needed.
    pub called: String,
    /// The columns that it sets.
    pub sets: Vec<String>,
    /// The byte of the statement at which the range goes.
    at: usize,
}

impl Batch {
    /// The statement for the rows that meet a condition.
    pub fn sql(&self, statement: &Statement, condition: &str) -> String {
        let (before, rest) = statement.text.split_at(self.at);
        // At the end of a statement its blanks are cut off.
        format!("{before}({condition}){}", rest.get(EVERY_ROW.len()..).unwrap_or_default())
    }
}

/// Each place of the file at which `:batch` stands.
fn placeholders(tree: &SyntaxNode) -> Vec<SyntaxNode> {
    let params = tree.descendants().filter(|node| node.kind() == SyntaxKind::NON_STANDARD_PARAM);
    params.filter(|node| node.text() == PLACEHOLDER).collect()
}

/// The file with `true` for `:batch`; `None` when it has none.
pub(super) fn without_placeholders(sql: &str, tree: &SyntaxNode) -> Option<String> {
    let places = placeholders(tree);
    let mut text = sql.to_owned();
    for place in &places {
        let start = usize::from(place.text_range().start());
        text.replace_range(start..start + PLACEHOLDER.len(), EVERY_ROW);
    }
    (!places.is_empty()).then_some(text)
}

/// The batch that a file describes, by its tree as it is written and the statements that were read with `true` in it.
///
/// # Errors
/// What is wrong, with its line.
pub(super) fn read(sql: &str, tree: &SyntaxNode, statements: &[Statement]) -> Result<Option<Batch>, (u32, String)> {
    let places = placeholders(tree);
    let line_of = |node: &SyntaxNode| line(sql, usize::from(node.text_range().start()));
    let rows = match manner(sql) {
        Err(problem) => {
            let blank = sql.len() - sql.trim_start().len();
            return Err((line(sql, blank), problem));
        }
        Ok(Manner::Batches(rows)) => rows,
        Ok(Manner::Whole | Manner::Statements) => {
            let Some(place) = places.first() else { return Ok(None) };
            let problem = "`:batch` is for migrations whose first comment says `-- greenlight: batches of 5000`";
            return Err((line_of(place), problem.to_owned()));
        }
    };
    let (statement, more) = match statements {
        [] => return Err((1, "a migration in batches holds an UPDATE or DELETE, and this one nothing".to_owned())),
        [statement, more @ ..] => (statement, more),
    };
    if let Some(second) = more.first() {
        let problem = "a migration in batches holds one statement only; put this one into a migration of its own";
        return Err((second.line, problem.to_owned()));
    }
    let node = tree.children().find(|node| matches!(node.kind(), SyntaxKind::UPDATE | SyntaxKind::DELETE));
    let writes = statement.effects.touches.iter().filter(|touch| matches!(touch, Touch::Write { .. })).count();
    let (Some(node), 1) = (node, writes) else {
        return Err((statement.line, "a migration in batches is an UPDATE or DELETE of one table and nothing else".to_owned()));
    };
    let place = match places.as_slice() {
        [place] if narrows(place, &node) => place,
        [] => {
            let problem = "`:batch` is missing; write `WHERE :batch`, and join other conditions to it by AND";
            return Err((statement.line, problem.to_owned()));
        }
        [.., place] => {
            let problem = "`:batch` stands once, in the statement's own WHERE, alone or joined to other conditions by AND";
            return Err((line_of(place), problem.to_owned()));
        }
    };
    let Some(table) = child(&node, &[SyntaxKind::RELATION_NAME]).and_then(|name| name_in(&name)) else {
        return Err((statement.line, "the table's name cannot be read here".to_owned()));
    };
    let alias = child(&node, &[SyntaxKind::OPTIONAL_AS_ALIAS]).and_then(|alias| child(&alias, &[SyntaxKind::TABLE_ALIAS]));
    let called = alias.map_or_else(|| quote_ident(&table.name), |alias| alias.text().to_string());
    let at = usize::from(place.text_range().start() - node.text_range().start());
    Ok(Some(Batch { rows, called, sets: set_columns(&node), at, table }))
}

/// Whether no row that fails the condition is touched: it is all of the statement's WHERE, or joined to the rest by AND.
fn narrows(place: &SyntaxNode, statement: &SyntaxNode) -> bool {
    for node in place.ancestors().skip(1) {
        match node.kind() {
            SyntaxKind::PAREN_EXPR => {}
            SyntaxKind::BIN_EXPR => {
                let by_and = |element: squawk_syntax::SyntaxElement| element.kind() == SyntaxKind::AND_KW;
                if !node.children_with_tokens().any(by_and) {
                    return false;
                }
            }
            SyntaxKind::WHERE_CLAUSE => return node.parent().as_ref() == Some(statement),
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    const OF_TEN: &str = "-- greenlight: batches of 10\n";

    fn problem(sql: &str) -> String {
        let contents = read(sql);
        assert_eq!((contents.batch, contents.problems.len()), (None, 1), "{sql}: {:?}", contents.problems);
        format!("{} {}", contents.problems[0].0, contents.problems[0].1)
    }

    #[test]
    fn the_first_comment_says_how_a_file_runs() {
        assert_eq!(manner("SELECT 1;\n-- greenlight: no-transaction\n"), Ok(Manner::Whole));
        assert_eq!(manner("\n--greenlight:  no-transaction \nSELECT 1;"), Ok(Manner::Statements));
        assert_eq!(manner("-- greenlight: batches of 5000\n"), Ok(Manner::Batches(5000)));
        assert_eq!(manner("--greenlight: batches of 20 rows"), Ok(Manner::Batches(20)));
        for wrong in ["batches", "batches of 0", "batches of some", "batches of 1000001", "no transaction"] {
            let problem = problem(&format!("\n-- greenlight: {wrong}\nSELECT 1;"));
            assert!(problem.starts_with("2 `-- greenlight: "), "{problem}");
        }
    }

    #[test]
    fn the_range_goes_where_the_placeholder_stands_in_the_name_that_the_statement_uses() {
        let cases = [
            (
                "UPDATE Orders SET cents = price * 100 WHERE :batch",
                "\"orders\"",
                "UPDATE Orders SET cents = price * 100 WHERE (X)",
            ),
            (
                "UPDATE ONLY \"Shop\".\"O\"\"x\" SET a = ':batch', b = c::batch\nWHERE a > 1 AND (:batch AND b) -- :batch\n",
                "\"O\"\"x\"",
                "UPDATE ONLY \"Shop\".\"O\"\"x\" SET a = ':batch', b = c::batch\nWHERE a > 1 AND ((X) AND b)",
            ),
            ("DELETE FROM s.t AS \"a b\" USING u WHERE (:batch);", "\"a b\"", "DELETE FROM s.t AS \"a b\" USING u WHERE ((X));"),
            (
                "WITH n AS (SELECT 1) UPDATE t * x SET a = b[1:batch] FROM n WHERE :batch",
                "x",
                "WITH n AS (SELECT 1) UPDATE t * x SET a = b[1:batch] FROM n WHERE (X)",
            ),
        ];
        for (sql, called, wanted) in cases {
            let contents = read(&format!("{OF_TEN}\n{sql}"));
            assert_eq!(contents.problems, [], "{sql}");
            let batch = contents.batch.unwrap();
            assert_eq!((batch.rows, batch.called.as_str()), (10, called));
            assert_eq!(batch.sql(&contents.statements[0], "X"), wanted);
        }
    }

    #[test]
    fn what_the_statement_writes_is_read_with_every_row_in_it() {
        let contents = read(&format!("{OF_TEN}UPDATE shop.t SET (a, \"B\") = (1, 2)\nWHERE :batch AND a = 0;"));
        assert_eq!(contents.statements[0].text, "UPDATE shop.t SET (a, \"B\") = (1, 2)\nWHERE true   AND a = 0;");
        let batch = contents.batch.unwrap();
        assert_eq!(batch.table, WrittenName { schema: Some("shop".to_owned()), name: "t".to_owned() });
        assert_eq!(batch.sets, ["a", "B"]);
    }

    #[test]
    fn what_cannot_run_in_batches_is_said_with_its_line() {
        let cases = [
            ("SELECT 1 WHERE :batch;", "2 a migration in batches is an UPDATE or DELETE"),
            ("INSERT INTO t SELECT * FROM u WHERE :batch;", "2 a migration in batches is an UPDATE or DELETE"),
            ("WITH d AS (DELETE FROM u) UPDATE t SET a = 1 WHERE :batch;", "2 a migration in batches is an UPDATE or DELETE"),
            ("UPDATE t SET a = 1 WHERE :batch;\nANALYZE t;", "3 a migration in batches holds one statement only"),
            ("UPDATE t SET a = 1;", "2 `:batch` is missing"),
            ("UPDATE t SET a = 1\nWHERE :batch OR b;", "3 `:batch` stands once"),
            ("UPDATE t SET a = 1 WHERE NOT :batch;", "2 `:batch` stands once"),
            ("UPDATE t SET a = :batch;", "2 `:batch` stands once"),
            ("UPDATE t SET a = 1 WHERE id IN (SELECT id FROM t WHERE :batch);", "2 `:batch` stands once"),
            ("UPDATE t SET a = 1 WHERE :batch AND\n :batch;", "3 `:batch` stands once"),
            ("-- nothing", "1 a migration in batches holds an UPDATE or DELETE"),
            ("UPDAT t SET a = 1 WHERE :batch;", "1 a migration in batches is an UPDATE or DELETE"),
        ];
        for (sql, wanted) in cases {
            let problem = problem(&format!("{OF_TEN}{sql}"));
            assert!(problem.starts_with(wanted), "{sql}: {problem}");
        }
        for first in ["", "-- greenlight: no-transaction"] {
            let problem = problem(&format!("{first}\nUPDATE t SET a = 1 WHERE :batch"));
            assert!(problem.starts_with("2 `:batch` is for migrations whose first comment"), "{problem}");
        }
    }
}
