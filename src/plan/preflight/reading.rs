//! Where the migrations cannot be tried before the run: what reading them tells, and whether they may be tried on green.

use super::{Look, handled, refused};
use crate::migrate::{Migration, Statement, StatementKind, Touch, WrittenName, reaches_beyond, shortened, statements_of};
use crate::plan::{Finding, StepName};

/// `reason`: why there is no shadow.
pub(super) fn check(look: &Look<'_>, reason: &str) -> Vec<Finding> {
    if let Some(why_not) = why_not_on_green(look) {
        let seen = format!("The migrations cannot be tried in a shadow before the run ({reason}), nor on green: {why_not}.");
        let remedy = format!(
            "name a scratch server as `shadow:`, or install PostgreSQL {}'s programs on this machine",
            look.blue().major()
        );
        return vec![refused("shadow", seen, remedy)];
    }
    let seen = format!("The migrations are not tried before the run: {reason}. Every verdict on a table is provisional.");
    let how = "they are tried in a scratch database on green, once it is promoted; where the verdicts turn out worse, the run waits for an \
               approval or goes no further";
    let mut findings = vec![handled("shadow", seen, StepName::ShadowGreen, how)];
    findings.extend(look.pending.iter().flat_map(read));
    findings
}

/// Green's other databases, its roles and its settings are no scratch.
fn why_not_on_green(look: &Look<'_>) -> Option<String> {
    let beyond = look.pending.iter().find_map(|migration| {
        let (line, what) = reaches_beyond(&migration.up)?;
        Some(format!("migration {} line {line}, `{what}`, reaches beyond its own database", migration.version))
    });
    // Its tables can be in one database of a server.
    let single = look.blue().catalog.extensions.contains_key("pg_cron");
    beyond.or_else(|| single.then(|| "extension pg_cron cannot be made in a second database".to_owned()))
}

fn read(migration: &Migration) -> Vec<Finding> {
    let finding = |statement: &Statement| {
        let seen = format!(
            "Migration {}, line {}, by reading alone (provisional): {}: {}",
            migration.version,
            statement.line,
            tells(statement),
            shortened(&statement.text)
        );
        let code = format!("read-only:{}:{}", migration.version, statement.line);
        handled(code, seen, StepName::ShadowGreen, "what it does to the flow is seen there")
    };
    statements_of(&migration.up).statements.iter().map(finding).collect()
}

fn tells(statement: &Statement) -> String {
    let kind = match statement.kind {
        StatementKind::Definition => "changes definitions",
        StatementKind::MayWrite => "may write rows",
        StatementKind::Concurrent => "works outside of transactions only",
        StatementKind::Unread => "could not be read",
    };
    let touches: Vec<String> = statement.effects.touches.iter().map(touch).collect();
    if touches.is_empty() { kind.to_owned() } else { format!("{kind} ({})", touches.join(", ")) }
}

fn touch(touch: &Touch) -> String {
    match touch {
        Touch::Write { table, kind, columns } if columns.is_empty() => format!("{kind} of {}", written(table)),
        Touch::Write { table, kind, columns } => format!("{kind} of {} in {}", columns.join(", "), written(table)),
        Touch::Make { table } => format!("makes {} of a query", written(table)),
        Touch::Convert { table, column } => format!("converts {}.{column}", written(table)),
    }
}

fn written(name: &WrittenName) -> String {
    name.schema.as_ref().map_or_else(|| name.name.clone(), |schema| format!("{schema}.{}", name.name))
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers};

    fn without_shadow(up: &str) -> World {
        World::with(|w| {
            w.survey.shadow = Err("no programs of PostgreSQL 15 were found".to_owned());
            up.clone_into(&mut w.input.migrations[0].up);
        })
    }

    #[test]
    fn without_a_shadow_the_migrations_are_read_and_tried_on_green() {
        let world = without_shadow("update orders set note = 'n/a';\nalter table orders drop column total;\n");
        assert_answers(&world, "shadow", "handled");
        assert_answers(&world, "read-only:0002:2", "handled");
        let seen = world.finding("read-only:0002:1").unwrap().seen;
        assert!(seen.contains("may write rows (update of note in orders)"), "{seen}");
    }

    #[test]
    fn what_reaches_beyond_its_database_is_not_tried_on_green() {
        for up in ["create role reader;", "alter table orders add column note text;\ngrant admins to ana;"] {
            assert_answers(&without_shadow(up), "shadow", "refused");
        }
        let mut cron = without_shadow("alter table orders add column note text;");
        cron.blue().catalog.extensions.insert("pg_cron".to_owned(), "1.6".to_owned());
        assert_answers(&cron, "shadow", "refused");
    }
}
