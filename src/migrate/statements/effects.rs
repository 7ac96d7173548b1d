//! What a text does with rows: what it reads, writes and calls, by the names that stand in it.

use super::{Touch, WrittenName, name_in, touch, unquoted};
use squawk_syntax::{
    SourceFile, SyntaxElement, SyntaxKind, SyntaxNode, SyntaxToken,
    ast::{self, AstNode},
};
use std::collections::BTreeSet;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    pub touches: Vec<Touch>,
    /// Tables and views from which rows come.
    pub reads: BTreeSet<WrittenName>,
    /// Functions and procedures that are called.
    pub calls: BTreeSet<WrittenName>,
    /// It makes statements of its own, or could not be read: it may do anything besides.
    pub unread: bool,
}

impl Effects {
    pub(super) fn unread() -> Effects {
        Effects { unread: true, ..Effects::default() }
    }

    /// Tables and views that are read or written.
    pub fn relations(&self) -> BTreeSet<&WrittenName> {
        let written = self.touches.iter().filter_map(|touch| match touch {
            Touch::Write { table, .. } => Some(table),
            Touch::Make { .. } | Touch::Convert { .. } => None,
        });
        self.reads.iter().chain(written).collect()
    }

    pub fn add(&mut self, other: Effects) {
        self.touches.extend(other.touches);
        self.reads.extend(other.reads);
        self.calls.extend(other.calls);
        self.unread |= other.unread;
    }
}

/// Of a statement, with the bodies of its DO blocks: a loop over rows does nothing in a shadow without rows.
pub(super) fn of_statement(node: &SyntaxNode) -> Effects {
    let mut effects = of_tree(node);
    effects.unread |= node.descendants().any(|node| node.kind() == SyntaxKind::EXECUTE);
    for block in node.descendants().filter_map(ast::Do::cast) {
        effects.add(block.plpgsql().map_or_else(Effects::unread, |body| of_body(&body.syntax())));
    }
    effects
}

/// Of a function or procedure, by its definition as the server writes it.
pub fn of_function(definition: &str) -> Effects {
    let parse = SourceFile::parse(definition);
    let tree = parse.tree().syntax().clone();
    let function = tree.descendants().find_map(ast::CreateFunction::cast);
    let procedure = tree.descendants().find_map(ast::CreateProcedure::cast);
    let plpgsql = function.as_ref().and_then(ast::CreateFunction::plpgsql);
    if let Some(body) = plpgsql.or_else(|| procedure.as_ref().and_then(ast::CreateProcedure::plpgsql)) {
        return of_body(&body.syntax());
    }
    let sql = function.as_ref().and_then(ast::CreateFunction::sql_body);
    if let Some(body) = sql.or_else(|| procedure.as_ref().and_then(ast::CreateProcedure::sql_body)) {
        return if body.errors().is_empty() { of_tree(&body.syntax()) } else { Effects::unread() };
    }
    // Its statements stand in the definition itself.
    let of_its_own = |kind| matches!(kind, SyntaxKind::ATOMIC_KW | SyntaxKind::RETURN_KW);
    let stands_here = tree.descendants_with_tokens().any(|element| of_its_own(element.kind()));
    if parse.errors().is_empty() && stands_here { of_tree(&tree) } else { Effects::unread() }
}

fn of_body(body: &SyntaxNode) -> Effects {
    let mut effects = of_tree(body);
    // Not the EXECUTE FUNCTION of a trigger that is made.
    effects.unread |= pairs(body).any(|(word, next)| {
        word.kind() == SyntaxKind::EXECUTE_KW && !matches!(next.kind(), SyntaxKind::FUNCTION_KW | SyntaxKind::PROCEDURE_KW)
    });
    effects.unread |= body.descendants_with_tokens().any(|element| element.kind() == SyntaxKind::ERROR);
    effects
}

fn of_tree(tree: &SyntaxNode) -> Effects {
    let named = |kind: SyntaxKind| tree.descendants().filter(move |node| node.kind() == kind).filter_map(|node| name_in(&node));
    let with: BTreeSet<WrittenName> = named(SyntaxKind::CTE_NAME).collect();
    let mut effects = Effects::default();
    for node in tree.descendants() {
        touch(&node, &mut effects.touches);
    }
    let read = named(SyntaxKind::RELATION_FROM_ITEM).chain(named(SyntaxKind::TABLE));
    effects.reads = read.filter(|name| !with.contains(name)).collect();
    effects.calls = calls(tree);
    effects
}

fn calls(tree: &SyntaxNode) -> BTreeSet<WrittenName> {
    let words: Vec<(SyntaxToken, SyntaxToken)> = pairs(tree).collect();
    let mut calls = BTreeSet::new();
    for (at, (name, next)) in words.iter().enumerate() {
        if next.kind() != SyntaxKind::L_PAREN {
            continue;
        }
        let before = |back: usize| at.checked_sub(back).map(|at| &words[at].0);
        let schema = before(1).filter(|dot| dot.kind() == SyntaxKind::DOT).and_then(|_| before(2));
        calls.insert(WrittenName { schema: schema.map(|schema| unquoted(schema.text())), name: unquoted(name.text()) });
    }
    calls
}

/// Each word with what follows it.
fn pairs(tree: &SyntaxNode) -> impl Iterator<Item = (SyntaxToken, SyntaxToken)> {
    let is_space = |kind: SyntaxKind| matches!(kind, SyntaxKind::WHITESPACE | SyntaxKind::COMMENT);
    let tokens = tree.descendants_with_tokens().filter_map(SyntaxElement::into_token);
    let tokens: Vec<SyntaxToken> = tokens.filter(|token| !is_space(token.kind())).collect();
    let follows = tokens.clone().into_iter().skip(1);
    tokens.into_iter().zip(follows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &BTreeSet<WrittenName>) -> Vec<&str> {
        names.iter().map(|name| name.name.as_str()).collect()
    }

    #[test]
    fn a_function_shows_what_it_reads_writes_and_calls_in_each_way_of_writing_it() {
        let plpgsql = "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $f$ DECLARE r record; BEGIN \
                       FOR r IN SELECT id FROM old LOOP INSERT INTO new VALUES (r.id); END LOOP; PERFORM more (1); END $f$";
        let sql = "CREATE PROCEDURE f() LANGUAGE sql AS $f$ INSERT INTO new SELECT more(id) FROM old $f$";
        let atomic = "CREATE FUNCTION f() RETURNS void LANGUAGE sql BEGIN ATOMIC INSERT INTO new SELECT more(id) FROM old; END";
        for definition in [plpgsql, sql, atomic] {
            let effects = of_function(definition);
            assert_eq!(names(&effects.reads), ["old"], "{definition}");
            assert!(names(&effects.calls).contains(&"more") && !effects.unread, "{definition}: {effects:?}");
            assert!(effects.touches.iter().any(|touch| matches!(touch, Touch::Write { table, .. } if table.name == "new")));
        }
        let schemas = of_function("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT a.b(c(1))'").calls;
        let schemas: Vec<_> = schemas.into_iter().map(|name| (name.schema, name.name)).collect();
        assert!(
            schemas.contains(&(Some("a".to_owned()), "b".to_owned())) && schemas.contains(&(None, "c".to_owned())),
            "{schemas:?}"
        );
        let unread = [
            "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $f$ BEGIN EXECUTE 'DELETE FROM x'; END $f$",
            "CREATE FUNCTION f() RETURNS SETOF int LANGUAGE plpgsql AS $f$ BEGIN RETURN QUERY EXECUTE 'SELECT 1'; END $f$",
            "CREATE FUNCTION f() RETURNS void LANGUAGE plpython3u AS $f$ pass $f$",
            "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $f$ SELEC 1 $f$",
        ];
        for definition in unread {
            assert!(of_function(definition).unread, "{definition}");
        }
    }

    #[test]
    fn a_statement_shows_the_bodies_that_it_runs_and_not_those_that_it_defines() {
        let of = |sql: &str| super::super::read(sql).statements.remove(0).effects;
        assert_eq!(names(&of("CREATE TABLE new AS TABLE old").reads), ["old"]);
        assert_eq!(names(&of("UPDATE new SET a = o.a FROM old o WHERE o.id = new.id").reads), ["old"]);
        assert!(of("DO $$ BEGIN EXECUTE 'DELETE FROM x'; END $$").unread);
        assert!(of("EXECUTE prepared(1)").unread);
        let made = "DO $$ BEGIN CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f(); END $$";
        assert!(!of(made).unread);
        let later = [
            "CREATE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC INSERT INTO t VALUES (1); END",
            "CREATE RULE r AS ON INSERT TO v DO INSTEAD INSERT INTO t VALUES (1)",
            "CREATE VIEW v AS SELECT f(id) FROM t",
        ];
        for definition in later {
            assert_eq!(of(definition), Effects::default(), "{definition}");
        }
    }
}
