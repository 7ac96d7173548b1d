//! The one place that reads SQL: a file into statements, and of each statement what can be told without a server.
//!
//! The reader is younger than the grammar that it reads. Where it does not understand a file, the whole file is one
//! statement, nothing is said of it, and the server is the judge. What it says of writes is added to what the shadow sees,
//! and never taken from it.

use squawk_syntax::{
    SourceFile, SyntaxElement, SyntaxKind, SyntaxNode,
    ast::{self, AstNode},
};
use std::collections::BTreeSet;

mod batched;
mod effects;

pub use batched::{Batch, Manner, manner};
pub use effects::{Effects, of_function};

/// One statement of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The text as it stands in the file, from its first word.
    pub text: String,
    /// The line of the file on which it begins, from 1.
    pub line: u32,
    pub kind: StatementKind,
    /// What it does by its text.
    pub effects: Effects,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementKind {
    /// Changes definitions, and no rows but by rewriting them.
    Definition,
    /// May write rows, itself or by what it calls.
    MayWrite,
    /// Works without a transaction around it only, and leaves its half behind when it fails: `CONCURRENTLY` and its like.
    Concurrent,
    /// A whole file that could not be read.
    Unread,
}

/// A name as it is written, unquoted; without a schema it is the server's search path that finds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WrittenName {
    pub schema: Option<String>,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touch {
    /// `kind` and `columns` as in `TableWrite`.
    Write { table: WrittenName, kind: &'static str, columns: Vec<String> },
    /// A table is made of the rows of a query.
    Make { table: WrittenName },
    /// A column's type is changed by an expression that is more than a cast.
    Convert { table: WrittenName, column: String },
}

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub statements: Vec<Statement>,
    /// What Greenlight does not run, with its line.
    pub problems: Vec<(u32, String)>,
    /// How the one statement of a migration in batches is cut. Its text has `true` where the range goes.
    pub batch: Option<Batch>,
}

/// Reads a migration.
pub fn read(sql: &str) -> Contents {
    let written = SourceFile::parse(sql);
    let mut contents = match batched::without_placeholders(sql, written.tree().syntax()) {
        Some(plain) => read_plain(&plain, &SourceFile::parse(&plain)),
        None => read_plain(sql, &written),
    };
    match batched::read(sql, written.tree().syntax(), &contents.statements) {
        Ok(batch) => contents.batch = batch,
        Err(problem) => contents.problems.push(problem),
    }
    contents
}

fn read_plain(sql: &str, parse: &squawk_syntax::Parse<SourceFile>) -> Contents {
    let tree = parse.tree();
    let mut contents = Contents { problems: problems(sql, tree.syntax()), ..Contents::default() };
    if !parse.errors().is_empty() {
        let kind = StatementKind::Unread;
        contents.statements.push(Statement { text: sql.to_owned(), line: 1, kind, effects: Effects::unread() });
        return contents;
    }
    for node in tree.stmts().map(|statement| statement.syntax().clone()) {
        if node.kind() == SyntaxKind::EMPTY_STMT {
            continue;
        }
        let start = usize::from(node.text_range().start());
        let kind = kind(&node);
        contents.statements.push(Statement {
            text: node.text().to_string(),
            line: line(sql, start),
            kind,
            effects: effects(&node, kind),
        });
    }
    contents
}

/// The line of the file at a byte, from 1.
fn line(sql: &str, at: usize) -> u32 {
    u32::try_from(sql[..at].matches('\n').count() + 1).unwrap_or(u32::MAX)
}

/// The line of the file on which a statement has its `position`, counted in characters from 1 as PostgreSQL does.
pub fn line_at(statement: &Statement, position: u32) -> u32 {
    let before = statement.text.chars().take(position.saturating_sub(1) as usize);
    statement.line + u32::try_from(before.filter(|&c| c == '\n').count()).unwrap_or(0)
}

/// The statement on one line, shortened for people.
pub fn short(sql: &str) -> String {
    const LENGTH: usize = 120;
    let line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= LENGTH { line } else { line.chars().take(LENGTH).collect::<String>() + " ..." }
}

/// The first line, and the words on it, of what does more than change the database in which it runs: roles, settings of the
/// server, other databases, slots. By the words alone, those in the bodies of functions and in comments too: better refused
/// where it was not needed than done where it must not be.
pub fn reaches_beyond(sql: &str) -> Option<(u32, String)> {
    const SHARED: [&str; 7] = ["role", "user", "group", "tablespace", "database", "system", "subscription"];
    const CALLS: [&str; 4] = ["dblink", "pg_create_", "pg_replication_", "pg_drop_replication"];
    let words: Vec<(u32, String)> = (1..).zip(sql.to_lowercase().lines().map(str::to_owned)).flat_map(words_of).collect();
    let word = |at: usize| words.get(at).map_or("", |(_, word)| word.as_str());
    let beyond = |at: usize| match (word(at), word(at + 1)) {
        ("create" | "alter" | "drop" | "on", "user") if word(at + 2) == "mapping" => false,
        ("reassign" | "drop", "owned") => true,
        ("create" | "alter" | "drop" | "on", what) => SHARED.contains(&what),
        ("grant" | "revoke", _) => {
            let until = (at..words.len()).find(|at| matches!(word(*at), "to" | "from" | ";")).unwrap_or(words.len());
            !(at..until).any(|at| word(at) == "on")
        }
        (call, _) => CALLS.iter().any(|name| call.starts_with(name)),
    };
    let at = (0..words.len()).find(|at| beyond(*at))?;
    Some((words[at].0, format!("{} {}", word(at), word(at + 1)).trim().to_owned()))
}

fn words_of((line, text): (u32, String)) -> Vec<(u32, String)> {
    let spaced = text.replace(';', " ; ");
    let words = spaced.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ';')).filter(|word| !word.is_empty());
    words.map(|word| (line, word.to_owned())).collect()
}

/// Whether the file runs in one transaction, by its first comment.
pub fn is_transactional(sql: &str) -> bool {
    !matches!(manner(sql), Ok(Manner::Statements | Manner::Batches(_)))
}

fn problems(sql: &str, tree: &SyntaxNode) -> Vec<(u32, String)> {
    let mut problems = Vec::new();
    for element in tree.descendants_with_tokens() {
        let at = usize::from(element.text_range().start());
        let begins_line = sql[..at].chars().rev().find(|c| *c == '\n' || !c.is_whitespace()).is_none_or(|c| c == '\n');
        let problem = match element.kind() {
            SyntaxKind::ERROR if element.as_token().is_some() && sql[at..].starts_with('\\') && begins_line => {
                let command = sql[at..].split_whitespace().next().unwrap_or("\\");
                format!("`{command}` is a command of psql, not SQL; leave it out")
            }
            SyntaxKind::COPY_STDIN => {
                "COPY from or to the client cannot be run here; use INSERT, or COPY with a file of the server".to_owned()
            }
            SyntaxKind::BEGIN
            | SyntaxKind::COMMIT_TRANSACTION
            | SyntaxKind::ROLLBACK_TRANSACTION
            | SyntaxKind::SAVEPOINT_CREATE
            | SyntaxKind::RELEASE_SAVEPOINT
            | SyntaxKind::ROLLBACK_TO_SAVEPOINT
            | SyntaxKind::SET_TRANSACTION
            | SyntaxKind::PREPARE_TRANSACTION
            | SyntaxKind::COMMIT_PREPARED
            | SyntaxKind::ROLLBACK_PREPARED => {
                let text = sql[at..usize::from(element.text_range().end())].trim_end_matches(';');
                format!(
                    "`{}`: Greenlight opens and ends the transaction itself; leave it out (a file that begins with the comment \
                     `-- greenlight: no-transaction` runs without one)",
                    short(text)
                )
            }
            _ => continue,
        };
        problems.push((line(sql, at), problem));
    }
    problems.dedup();
    problems
}

fn kind(node: &SyntaxNode) -> StatementKind {
    let concurrently = node.descendants_with_tokens().any(|element| element.kind() == SyntaxKind::CONCURRENTLY_KW);
    let name = format!("{:?}", node.kind());
    if concurrently || name == "VACUUM" || name == "REINDEX" {
        return StatementKind::Concurrent;
    }
    let queries = ["CREATE_TABLE_AS", "CREATE_MATERIALIZED_VIEW", "REFRESH"].contains(&name.as_str());
    let definition = ["ALTER_", "CREATE_", "DROP_", "COMMENT", "GRANT", "REVOKE", "SECURITY", "SET", "RESET", "ANALYZE", "LOCK"];
    if !queries && definition.iter().any(|word| name.starts_with(word)) {
        return StatementKind::Definition;
    }
    StatementKind::MayWrite
}

/// What a definition would do later is not done now.
fn effects(node: &SyntaxNode, kind: StatementKind) -> Effects {
    let all = effects::of_statement(node);
    if kind == StatementKind::MayWrite {
        return all;
    }
    let converts = all.touches.into_iter().filter(|touch| matches!(touch, Touch::Convert { .. }));
    Effects { touches: converts.collect(), ..Effects::default() }
}

fn touch(node: &SyntaxNode, touches: &mut Vec<Touch>) {
    let target = child(node, &[SyntaxKind::RELATION_NAME, SyntaxKind::RELATION_NAME_REF, SyntaxKind::TABLE_RELATION_NAME])
        .and_then(|child| name_in(&child));
    let write = |kind, columns| target.clone().map(|table| Touch::Write { table, kind, columns });
    match node.kind() {
        SyntaxKind::INSERT => {
            touches.extend(write("insert", Vec::new()));
            // ON CONFLICT DO UPDATE
            let sets = set_columns(node);
            touches.extend((!sets.is_empty()).then(|| write("update", sets)).flatten());
        }
        SyntaxKind::UPDATE => touches.extend(write("update", set_columns(node))),
        SyntaxKind::DELETE => touches.extend(write("delete", Vec::new())),
        SyntaxKind::MERGE => {
            let has = |kind| node.descendants().any(|node| node.kind() == kind);
            touches.extend(has(SyntaxKind::MERGE_INSERT).then(|| write("insert", Vec::new())).flatten());
            touches.extend(has(SyntaxKind::MERGE_DELETE).then(|| write("delete", Vec::new())).flatten());
            let sets = set_columns(node);
            touches.extend((!sets.is_empty()).then(|| write("update", sets)).flatten());
        }
        SyntaxKind::TRUNCATE => {
            let tables = node.descendants().filter(|node| node.kind() == SyntaxKind::TABLE_RELATION_NAME);
            let write = |table| Touch::Write { table, kind: "truncate", columns: Vec::new() };
            touches.extend(tables.filter_map(|table| name_in(&table)).map(write));
        }
        SyntaxKind::COPY if node.descendants().any(|node| node.kind() == SyntaxKind::COPY_FROM) => {
            let table = child(node, &[SyntaxKind::COPY_TABLE]).and_then(|table| name_in(&table));
            touches.extend(table.map(|table| Touch::Write { table, kind: "insert", columns: Vec::new() }));
        }
        SyntaxKind::ALTER_TABLE => touches.extend(target.clone().into_iter().flat_map(|table| conversions(node, &table))),
        _ => {}
    }
    let made = match node.kind() {
        SyntaxKind::CREATE_TABLE_AS => child(node, &[SyntaxKind::TABLE_NAME]).and_then(|name| name_in(&name)),
        SyntaxKind::SELECT_INTO => {
            let clause = node.descendants().find(|node| node.kind() == SyntaxKind::INTO_CLAUSE);
            clause.and_then(|clause| name_in(&clause))
        }
        _ => None,
    };
    touches.extend(made.map(|table| Touch::Make { table }));
}

/// Type changes by an expression that is more than the column itself or a cast of it.
fn conversions(node: &SyntaxNode, table: &WrittenName) -> Vec<Touch> {
    let mut found = Vec::new();
    for action in node.descendants().filter(|node| node.kind() == SyntaxKind::ALTER_COLUMN) {
        let Some(column) = child(&action, &[SyntaxKind::COLUMN_NAME_REF]).and_then(|name| name_in(&name)) else { continue };
        let Some(using) = action.descendants().find(|node| node.kind() == SyntaxKind::USING_EXPR) else { continue };
        let mut expression = using.first_child();
        while let Some(inner) = expression.clone() {
            match inner.kind() {
                SyntaxKind::CAST_EXPR | SyntaxKind::PAREN_EXPR => expression = inner.first_child(),
                SyntaxKind::NAME_REF if name_in(&inner).as_ref() == Some(&column) => break,
                _ => {
                    found.push(Touch::Convert { table: table.clone(), column: column.name });
                    break;
                }
            }
        }
    }
    found
}

fn set_columns(node: &SyntaxNode) -> Vec<String> {
    let targets = node.descendants().filter(|node| node.kind() == SyntaxKind::COLUMN_TARGET);
    targets.filter(in_set_clause).filter_map(|target| name_in(&target)).map(|name| name.name).collect()
}

fn in_set_clause(node: &SyntaxNode) -> bool {
    node.ancestors().any(|node| node.kind() == SyntaxKind::SET_COLUMN_LIST)
}

fn child(node: &SyntaxNode, kinds: &[SyntaxKind]) -> Option<SyntaxNode> {
    node.children().find(|child| kinds.contains(&child.kind()))
}

/// The first name in the node, with its schema.
fn name_in(node: &SyntaxNode) -> Option<WrittenName> {
    let path = node.descendants().find(|node| matches!(node.kind(), SyntaxKind::PATH | SyntaxKind::PATH_REF));
    let words = |node: &SyntaxNode| -> Vec<String> {
        let tokens = node.descendants_with_tokens().filter_map(SyntaxElement::into_token);
        let named = tokens.filter(|token| token.kind() == SyntaxKind::IDENT || format!("{:?}", token.kind()).ends_with("_KW"));
        named.filter(|token| token.kind() != SyntaxKind::ONLY_KW).map(|token| unquoted(token.text())).collect()
    };
    let mut words = words(path.as_ref().unwrap_or(node));
    let name = if path.is_some() { words.pop()? } else { words.first()?.clone() };
    Some(WrittenName { schema: path.and_then(|_| words.pop()), name })
}

fn unquoted(name: &str) -> String {
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => name.to_lowercase(),
    }
}

/// What a trigger's function does by its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyEffects {
    /// Columns of the new row that it sets.
    pub sets: BTreeSet<String>,
    /// Tables that it writes.
    pub writes: BTreeSet<WrittenName>,
}

/// Reads the definition of a trigger's function. What cannot be read counts as setting every column that it names.
pub fn body_effects(definition: &str) -> BodyEffects {
    let mut effects = BodyEffects::default();
    let parse = SourceFile::parse(definition);
    let functions = parse.tree().syntax().descendants().filter_map(ast::CreateFunction::cast).collect::<Vec<_>>();
    for body in functions.iter().filter_map(ast::CreateFunction::plpgsql) {
        let mut touches = Vec::new();
        for node in body.syntax().descendants() {
            touch(&node, &mut touches);
            if matches!(node.kind(), SyntaxKind::PLPGSQL_ASSIGN_TARGET | SyntaxKind::ERROR) {
                effects.sets.extend(new_columns(&node));
            }
        }
        effects.writes.extend(touches.into_iter().filter_map(|touch| match touch {
            Touch::Write { table, .. } => Some(table),
            Touch::Make { .. } | Touch::Convert { .. } => None,
        }));
    }
    effects
}

/// The tables that a trigger's function writes by its text; `None` when that cannot be told: it is in another language, not to
/// be read, makes statements of its own, or names one of the functions in `own`, which may write too.
pub fn body_writes(definition: &str, own: &BTreeSet<&str>) -> Option<Vec<Touch>> {
    let parse = SourceFile::parse(definition);
    let function = parse.tree().syntax().descendants().find_map(ast::CreateFunction::cast)?;
    let body = function.plpgsql()?;
    let tokens = body.syntax().descendants_with_tokens().filter_map(SyntaxElement::into_token);
    for token in tokens {
        let dynamic = matches!(token.text().to_lowercase().as_str(), "execute" | "call");
        if dynamic || own.contains(unquoted(token.text()).as_str()) {
            return None;
        }
    }
    let mut touches = Vec::new();
    for node in body.syntax().descendants() {
        if node.kind() == SyntaxKind::ERROR {
            return None;
        }
        touch(&node, &mut touches);
    }
    Some(touches)
}

/// The columns that the node names as `NEW.column`.
fn new_columns(node: &SyntaxNode) -> Vec<String> {
    let tokens = node.descendants_with_tokens().filter_map(SyntaxElement::into_token);
    let tokens: Vec<_> = tokens.filter(|token| token.kind() != SyntaxKind::WHITESPACE).collect();
    let is_new =
        |three: &&[squawk_syntax::SyntaxToken]| three[0].kind() == SyntaxKind::NEW_KW && three[1].kind() == SyntaxKind::DOT;
    tokens.windows(3).filter(is_new).map(|three| unquoted(three[2].text())).collect()
}

/// The entries of a dump by `pg_dump`, each with its heading; the first holds the settings that come before all others.
pub fn dump_entries(dump: &str) -> Vec<&str> {
    let mut starts = vec![0];
    let mut at = 0;
    let mut last_comment: Option<(usize, &str)> = None;
    for token in squawk_lexer::tokenize(dump) {
        let end = at + token.len as usize;
        if matches!(token.kind, squawk_lexer::TokenKind::LineComment) {
            let text = &dump[at..end];
            if text.starts_with("-- Name: ")
                && let Some((start, "--")) = last_comment
            {
                starts.push(start);
            }
            last_comment = Some((at, text.trim_end()));
        }
        at = end;
    }
    let ends = starts.iter().skip(1).copied().chain([dump.len()]);
    starts.iter().zip(ends).map(|(&start, end)| &dump[start..end]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> WrittenName {
        match text.split_once('.') {
            Some((schema, name)) => WrittenName { schema: Some(schema.to_owned()), name: name.to_owned() },
            None => WrittenName { schema: None, name: text.to_owned() },
        }
    }

    fn touches_of(sql: &str) -> Vec<String> {
        let show = |name: &WrittenName| name.schema.as_ref().map(|schema| format!("{schema}.")).unwrap_or_default() + &name.name;
        let contents = read(sql);
        let touches = contents.statements.into_iter().flat_map(|statement| statement.effects.touches);
        let text = |touch| match touch {
            Touch::Write { table, kind, columns } => format!("{kind} {} {}", show(&table), columns.join(",")).trim().to_owned(),
            Touch::Make { table } => format!("make {}", show(&table)),
            Touch::Convert { table, column } => format!("convert {} {column}", show(&table)),
        };
        touches.map(text).collect()
    }

    #[test]
    fn a_file_is_split_into_statements_with_their_lines() {
        let sql = "-- first\nCREATE TABLE a (id int);\n\n/* two */ ALTER TABLE a\n  ADD x int;;\n\
                   CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END;\nSELECT f()";
        let contents = read(sql);
        let seen: Vec<_> = contents.statements.iter().map(|one| (one.line, one.kind, short(&one.text))).collect();
        let (definition, may_write) = (StatementKind::Definition, StatementKind::MayWrite);
        let expected = [
            (2, definition, "CREATE TABLE a (id int);"),
            (4, definition, "ALTER TABLE a ADD x int;"),
            (6, definition, "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END;"),
            (7, may_write, "SELECT f()"),
        ];
        assert_eq!(seen, expected.map(|(line, kind, text)| (line, kind, text.to_owned())));
        assert_eq!(line_at(&contents.statements[1], 15), 5);
        assert_eq!(contents.problems, []);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_one_statement() {
        let contents = read("SELECT 1;\nSELEC 2;");
        assert_eq!(contents.statements.len(), 1);
        assert_eq!((contents.statements[0].kind, contents.statements[0].line), (StatementKind::Unread, 1));
        assert_eq!(line_at(&contents.statements[0], 11), 2);
        assert_eq!(read("-- nothing\n ;").statements, []);
    }

    #[test]
    fn what_the_runner_does_itself_or_cannot_do_is_a_problem() {
        let contents = read("BEGIN;\nSELECT 1;\nCOMMIT;\n");
        assert_eq!(contents.problems.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 3]);
        let contents = read("SELECT 1;\n\\i other.sql\nCOPY t FROM STDIN;\n1\n\\.\n");
        let says: Vec<String> = contents.problems.iter().map(|(line, says)| format!("{line} {says}")).collect();
        assert!(says[0].starts_with("2 `\\i` is a command of psql"), "{says:?}");
        assert!(says[1].starts_with("3 COPY from or to the client"), "{says:?}");
        // Inside a text it is no command.
        assert_eq!(read("SELECT E'\n\\n';").problems, []);
        assert_eq!(read("DO $$\n\\x\n$$;").problems, []);
    }

    #[test]
    fn the_first_comment_says_whether_there_is_a_transaction() {
        assert!(is_transactional("SELECT 1;\n-- greenlight: no-transaction\n"));
        assert!(!is_transactional("\n--greenlight:  no-transaction \nSELECT 1;"));
        assert_eq!(read("-- x\nCREATE INDEX CONCURRENTLY i ON t (a);").statements[0].kind, StatementKind::Concurrent);
    }

    #[test]
    fn writes_are_told_from_the_text_also_in_loops_that_a_shadow_never_enters() {
        let cases: [(&str, &[&str]); 14] = [
            ("UPDATE ONLY shop.t AS x SET (a, \"B\") = (1, 2), c = 3;", &["update shop.t a,B,c"]),
            ("INSERT INTO T VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 1;", &["insert t", "update t a"]),
            ("WITH gone AS (DELETE FROM o RETURNING *) INSERT INTO n SELECT * FROM gone;", &["insert n", "delete o"]),
            ("INSERT INTO n SELECT * FROM s.o JOIN \"P q\" p USING (id);", &["insert n"]),
            ("CREATE TABLE n AS SELECT * FROM o;", &["make n"]),
            ("SELECT * INTO n FROM o;", &["make n"]),
            ("TRUNCATE a, b.c;", &["truncate a", "truncate b.c"]),
            ("MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET a = s.a;", &["update t a"]),
            ("COPY t FROM '/tmp/x';", &["insert t"]),
            ("ALTER TABLE shop.t ALTER COLUMN a TYPE bigint USING a::bigint * 100;", &["convert shop.t a"]),
            ("ALTER TABLE t ALTER a TYPE jsonb USING (a::jsonb), ALTER b TYPE bigint USING CAST(b AS bigint);", &[]),
            ("ALTER TABLE t ALTER a TYPE int USING b;", &["convert t a"]),
            ("SELECT * FROM o;", &[]),
            (
                "DO $$ BEGIN FOR r IN SELECT id FROM o LOOP UPDATE t SET a = 1 WHERE id = r.id; DELETE FROM o; END LOOP; END $$;",
                &["update t a", "delete o"],
            ),
        ];
        for (sql, expected) in cases {
            assert_eq!(touches_of(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_trigger_function_shows_what_it_sets_and_writes() {
        let body = "BEGIN NEW.\"B x\" := 1; new.c = 2; IF NEW.d = 3 THEN INSERT INTO s.audit VALUES (1); END IF; RETURN NEW; END";
        let effects = body_effects(&format!("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $f$ {body} $f$"));
        assert_eq!(effects.sets.into_iter().collect::<Vec<_>>(), ["B x", "c"]);
        assert_eq!(effects.writes.into_iter().collect::<Vec<_>>(), [name("s.audit")]);
        let unread =
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF true THEN SELECT 1 INTO NEW.e; END IF; END $$";
        assert_eq!(body_effects(unread).sets.into_iter().collect::<Vec<_>>(), ["e"]);
    }

    #[test]
    fn a_dump_is_split_at_its_headings_only() {
        let dump = "SET a = 1;\n\n--\n-- Name: t; Type: TABLE\n--\n\nCREATE TABLE t ();\n--\n-- Name: f; Type: FUNCTION\n--\n\n\
                    CREATE FUNCTION f() AS $$\n--\n-- Name: no\n--\n$$;\n";
        let entries = dump_entries(dump);
        assert_eq!(entries.len(), 3);
        assert!(entries[1].contains("CREATE TABLE") && entries[2].contains("CREATE FUNCTION"));
        assert_eq!(entries.concat(), dump);
    }
}
