//! What the migrations would do while rows keep coming from blue, by what the shadow showed.

use super::{Look, fine, handled, needs_accept, refused};
use crate::migrate::{ShadowReport, StatementReport, differs_in_line_ends, version_order};
use crate::plan::figures::{bytes, count, few, milliseconds};
use crate::plan::{Finding, StepName};
use crate::schema::{Catalog, Constraint, Partition, Sequence, Table, difference};
use crate::word::RelationName;
use std::collections::BTreeSet;

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let mut findings = changed_files(look);
    if !look.is_in_place() {
        findings.push(history(look));
    }
    if look.pending.is_empty() {
        let then = if look.is_in_place() { "blue stays as it is" } else { "green will serve with blue's schema" };
        findings.push(fine("migrations", format!("There is nothing to migrate: {then}.")));
        return findings;
    }
    match &look.survey.shadow {
        Err(reason) if look.is_in_place() => {
            let seen = format!("The migrations could not be tried: {reason}.");
            findings.push(refused("shadow", seen, "nothing is tried on the server that serves: name a `shadow`"));
        }
        Err(reason) if look.is_freeze() => {
            let seen = format!("The migrations could not be tried: {reason}.");
            findings.push(refused("shadow", seen, "in a freeze nothing is tried on green while all wait: name a `shadow`"));
        }
        Err(reason) => findings.extend(super::reading::check(look, reason)),
        Ok(shadow) => {
            let (migrations, statements) = (count(look.pending.len(), "migration"), count(shadow.statements.len(), "statement"));
            let seen = format!("{migrations} of {statements} went through in the shadow ({}).", shadow.stood_on);
            findings.push(fine("shadow", seen));
            findings.extend(shadow_is_not_blue(look, shadow));
            findings.extend(unread(look, shadow));
            if look.is_in_place() {
                return findings;
            }
            if look.is_freeze() {
                findings.push(expected_pause(look, shadow));
            } else {
                findings.extend(backfills(look, shadow));
                findings.extend(new_constraints(look, shadow));
                findings.extend(sync_triggers(look));
                findings.extend(blind(look, shadow));
                findings.extend(shadow.sequences_set.iter().map(|what| sequence_set(what)));
            }
            findings.extend(new_sequences(look, shadow));
        }
    }
    findings
}

/// Bytes that are rewritten, or compared with the other server's, in a second: as `./dev bench` does on two cores under load.
const BYTES_A_SECOND: u64 = 20 << 20;

/// What a freeze takes besides migrations and comparison, in milliseconds, by `./dev bench`.
const FREEZE_ITSELF_MS: u64 = 300;

/// How long the freeze is to last, by what the shadow showed and how large the tables are.
fn expected_pause(look: &Look<'_>, shadow: &ShadowReport) -> Finding {
    let took_ms: f64 = shadow.statements.iter().map(|statement| statement.took_ms).sum();
    let size = |wanted: &dyn Fn(&RelationName) -> bool| -> u64 {
        look.blue().table_sizes.iter().filter(|size| wanted(&size.table)).map(|size| size.bytes).sum()
    };
    let rewrites: BTreeSet<&RelationName> = shadow.statements.iter().flat_map(|statement| &statement.rewrites).collect();
    let written: BTreeSet<&RelationName> =
        shadow.statements.iter().flat_map(|statement| &statement.writes).map(|write| &write.table).collect();
    let rewritten = size(&|table| rewrites.contains(table) || written.contains(table));
    let compared: BTreeSet<&RelationName> = look.published().map(|(flow, _)| &flow.table).collect();
    let compared =
        if look.input.validate.rows { size(&|table| compared.contains(table) && !look.excluded.contains(table)) } else { 0 };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and no plan takes ages of the world"
    )]
    let in_shadow_ms = took_ms as u64;
    let expected_ms = FREEZE_ITSELF_MS + in_shadow_ms + (rewritten + compared).saturating_mul(1000) / BYTES_A_SECOND;
    let seen = format!(
        "The freeze is expected to last about {}: the migrations took {in_shadow_ms} ms in the shadow, which has no rows; they write or \
         rewrite tables of {}, and {} are compared, both reckoned at {} a second. A rehearsal on a copy with rows tells it better.",
        milliseconds(expected_ms.div_ceil(1000) * 1000),
        bytes(rewritten),
        bytes(compared),
        bytes(BYTES_A_SECOND),
    );
    let limit = look.input.window.max_pause_ms;
    if expected_ms <= limit {
        return fine("expected-pause", seen);
    }
    let consequence = format!(
        "the limit of {} would be reached, and green given up with the work done for nothing; raise `window.max_pause`, or take less \
         into one freeze",
        milliseconds(limit)
    );
    needs_accept("expected-pause", seen, consequence)
}

/// Verdicts that were found on another schema than blue's would say nothing.
fn shadow_is_not_blue(look: &Look<'_>, shadow: &ShadowReport) -> Option<Finding> {
    let changes = difference(&look.blue().catalog, &shadow.before);
    (!changes.is_empty()).then(|| {
        let seen = format!("The shadow's schema is not blue's: {}.", few(&changes));
        refused("shadow-differs", seen, "see that the scratch server has blue's extensions and version, and plan again")
    })
}

/// What could not be told from the text of a statement, nor be seen in a shadow without rows.
fn unread(look: &Look<'_>, shadow: &ShadowReport) -> Vec<Finding> {
    let consequence = if look.is_in_place() {
        "rows of any table may be changed, and locked for as long as that takes"
    } else {
        "rows of any table may be changed or copied on green alone: those are outdated where blue writes afterwards, and a rollback does \
         not undo it. Write the statements out, or be sure that it changes definitions only"
    };
    let unread = shadow.statements.iter().filter_map(|statement| Some((statement, statement.unread.as_ref()?)));
    unread
        .map(|(StatementReport { version, line, .. }, why)| {
            let seen = format!("Migration {version}, line {line}, {why}: which tables it writes cannot be told.");
            needs_accept(format!("unread-writes:{version}:{line}"), seen, consequence)
        })
        .collect()
}

/// Where files and history disagree.
fn changed_files(look: &Look<'_>) -> Vec<Finding> {
    let applied = &look.survey.applied;
    let mut findings = Vec::new();
    for done in applied {
        let version = &done.version;
        let Some(migration) = look.input.migrations.iter().find(|migration| migration.is_version(version)) else {
            let seen = format!(
                "Migration {version} was applied to blue at {}, and the playbook's folder has no file of it.",
                done.applied_at
            );
            let consequence = "the files do not tell how the schema came about: fine for a baseline, and a mistake where the file was \
                               lost or the folder is another one";
            findings.push(needs_accept(format!("migration-without-file:{version}"), seen, consequence));
            continue;
        };
        if migration.checksum == done.checksum {
            continue;
        }
        let (what, remedy) = if differs_in_line_ends(&migration.up, &done.checksum) {
            (
                "other line ends (CRLF and LF), and else the same text",
                "put back the line ends that it had: git's `core.autocrlf` changes them",
            )
        } else {
            ("another content", "put the applied file back, and write what is new into a migration of its own")
        };
        let seen = format!("Migration {version} {} was applied to blue with {what}.", migration.name);
        findings.push(refused(format!("migration-changed:{version}"), seen, remedy));
    }
    let newest = applied.iter().map(|applied| applied.version.as_str()).max_by_key(|version| version_order(version));
    for migration in look.pending {
        if let Some(newest) = newest.filter(|newest| version_order(&migration.version) < version_order(newest)) {
            let seen = format!("Migration {} {} is older than {newest}, which blue has.", migration.version, migration.name);
            let consequence = "it was written for a schema without what came after it";
            findings.push(needs_accept(format!("migration-out-of-order:{}", migration.version), seen, consequence));
        }
    }
    findings
}

fn history(look: &Look<'_>) -> Finding {
    let table = RelationName::new(&look.input.history.schema, "schema_migrations");
    let how = "it is in neither publication, and its rows are put in order at `finish` and at a rollback";
    handled("history-table", format!("The history table {table} differs between the sides while they do."), StepName::Finish, how)
}

/// Columns that only green has, filled once. Whatever else a migration writes into tables that blue feeds is refused by
/// the tables' verdicts.
fn backfills(look: &Look<'_>, shadow: &ShadowReport) -> Vec<Finding> {
    let mut findings = Vec::new();
    for statement in &shadow.statements {
        for write in statement.writes.iter().filter(|write| write.kind == "update") {
            let table = shadow.before.tables.get(&write.table.to_string());
            let root = table.and_then(|table| match &table.partition {
                Partition::Of { root, .. } => Some(root),
                Partition::None | Partition::Root { .. } => None,
            });
            let table = root.unwrap_or(&write.table);
            if look.published().any(|(flow, _)| flow.table == *table) {
                findings.push(backfill(look, table, statement));
            }
        }
    }
    findings
}

fn backfill(look: &Look<'_>, table: &RelationName, statement: &StatementReport) -> Finding {
    let code = format!("backfill:{table}");
    let seen = format!("Migration {}, line {}, fills columns of {table} that only green has.", statement.version, statement.line);
    if look.sync_triggers.iter().any(|trigger| trigger.table == *table) {
        let how =
            "the migration's own trigger fills them for rows that come from blue: it is enabled for applied rows until `finish`";
        return handled(code, seen, StepName::MigrateGreen, how);
    }
    let consequence = "rows that blue writes after it keep the columns' default or an outdated value: give the migration a BEFORE trigger \
                       that computes them, or make them generated columns";
    needs_accept(code, seen, consequence)
}

/// What blue never promised may be broken by a row from blue.
fn new_constraints(look: &Look<'_>, shadow: &ShadowReport) -> Vec<Finding> {
    let mut checked = Vec::new();
    for (flow, _) in look.published() {
        let key = flow.table.to_string();
        let (Some(before), Some(after)) = (shadow.before.tables.get(&key), shadow.after.tables.get(&key)) else { continue };
        let new = after
            .constraints
            .iter()
            .filter(|new| new.kind != "f" && !before.constraints.iter().any(|old| old.name == new.name && old.kind == new.kind));
        checked.extend(new.map(|constraint| format!("{}.{}", flow.table, constraint.name)));
    }
    let mut findings = foreign_keys(look, &shadow.before, &shadow.after, "new-foreign-keys");
    findings.extend(foreign_keys(look, &shadow.after, &shadow.before, "old-foreign-keys"));
    if !checked.is_empty() {
        let seen = format!(
            "The migration adds {} that rows from blue may break: {}.",
            count(checked.len(), "constraint"),
            checked.join(", ")
        );
        let how = "such a row stops the flow, and is shown; the window stays shut until it is gone";
        findings.push(handled("new-constraints", seen, StepName::ValidateGreen, how));
    }
    findings
}

/// Foreign keys that only `one` of the schemas has, which nobody checks while rows flow to it.
fn foreign_keys(look: &Look<'_>, other: &Catalog, one: &Catalog, topic: &str) -> Vec<Finding> {
    let history = RelationName::new(&look.input.history.schema, "schema_migrations");
    let known = |table: &Table, key: &Constraint| {
        let there = other.tables.get(&table.name.to_string());
        there.is_some_and(|there| there.constraints.iter().any(|old| old.kind == "f" && old.definition == key.definition))
    };
    let is_new = topic == "new-foreign-keys";
    let mut findings = Vec::new();
    for table in one.tables.values().filter(|table| table.root().is_none() && table.name != history) {
        for key in table.constraints.iter().filter(|key| key.kind == "f" && key.validated && !known(table, key)) {
            let code = format!("{topic}:{}.{}", table.name, key.name);
            let (side, why) = if is_new {
                ("Green", "applied rows are not checked against foreign keys, and no referential action fires for them")
            } else {
                ("Blue", "rows of green, which has it no more, are not checked against it when they come back")
            };
            let seen = format!("{side} alone has foreign key {} of {} ({}): {why}.", key.name, table.name, key.definition);
            findings.push(if is_countable(table, key) {
                let (by, when) =
                    if is_new { (StepName::ValidateGreen, "each window to green") } else { (StepName::Window, "a window back to blue") };
                let how = format!("rows that name none are counted before {when}, shown by key, and keep it shut");
                handled(code, seen, by, &how)
            } else {
                let consequence = "rows that name none cannot be counted with our rights, since its values are compared by what others \
                                   wrote, or over periods. Let an assertion of the playbook count them";
                needs_accept(code, seen, consequence)
            });
        }
    }
    findings
}

/// By values of PostgreSQL's own types.
fn is_countable(table: &Table, key: &Constraint) -> bool {
    let own = key.definition.split_once(" REFERENCES ").map_or("", |(own, _)| own);
    let named = |name: &str| own.replace('"', "").split(['(', ')', ',']).any(|part| part.trim() == name);
    !own.contains("PERIOD ") && table.columns.iter().filter(|column| named(&column.name)).all(|column| column.builtin_type)
}

/// The window sets each sequence by its name on blue. One of another name would be left where the migration put it, while
/// rows go on coming from blue: green would give numbers that they have already.
fn new_sequences(look: &Look<'_>, shadow: &ShadowReport) -> Vec<Finding> {
    let is_new = |sequence: &&Sequence| !shadow.before.sequences.contains_key(&sequence.name.to_string());
    // PostgreSQL quotes more than it needs to, keywords for one.
    let unquoted = |name: &str| name.replace('"', "");
    let blues_columns: BTreeSet<String> = look
        .published()
        .filter_map(|(flow, _)| shadow.before.tables.get(&flow.table.to_string()))
        .flat_map(|table| table.columns.iter().map(move |column| (&table.name, &column.name)))
        .map(|(table, column)| unquoted(&format!("{}.{}.{column}", table.schema, table.name)))
        .collect();
    let new = shadow.after.sequences.values().filter(is_new);
    new.filter_map(|sequence| {
        let column = sequence.owned_by.as_ref().filter(|column| blues_columns.contains(&unquoted(column)))?;
        let seen = format!("The migration gives {column} its numbers from sequence {}, which blue has not.", sequence.name);
        let remedy = "keep blue's sequence and its name until the run is finished: the window carries its value by that name";
        Some(refused(format!("new-sequence:{}", sequence.name), seen, remedy))
    })
    .collect()
}

fn sequence_set(what: &str) -> Finding {
    let name = what.split_once(" to ").map_or(what, |(name, _)| name);
    let consequence = "the window sets it to blue's value and some steps more, so that what the migration set is lost: set it on blue before, \
                       or after the finish";
    needs_accept(format!("sequence-set:{name}"), format!("The migration sets sequence {what}."), consequence)
}

fn sync_triggers(look: &Look<'_>) -> Option<Finding> {
    let names: Vec<String> = look.sync_triggers.iter().map(|trigger| format!("{} of {}", trigger.name, trigger.table)).collect();
    (!names.is_empty()).then(|| {
        let seen = format!(
            "The migration makes triggers on published tables, which would not fire for rows from blue: {}.",
            names.join(", ")
        );
        let how =
            "`ENABLE ALWAYS TRIGGER` until `finish`; rows from blue wait from the first migration until all of them are there";
        handled("sync-triggers", seen, StepName::MigrateGreen, how)
    })
}

/// What an apply worker runs for a row: it has an empty search path.
fn blind(look: &Look<'_>, shadow: &ShadowReport) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (function, missing) in &shadow.blind {
        let calls = |text: &str| {
            text.match_indices(&format!("{function}("))
                .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '"')))
        };
        let mut runs: Vec<String> = look
            .published()
            .flat_map(|(flow, _)| {
                let key = flow.table.to_string();
                let [before, after] =
                    [&shadow.before, &shadow.after].map(|schema| schema.tables.get(&key).map(|table| (schema, table)));
                let told = [before, after].into_iter().flatten().flat_map(|(schema, table)| run_for_a_row(look, schema, table));
                told.filter(|(_, text)| calls(text)).map(|(what, _)| format!("{what} of {}", flow.table)).collect::<Vec<_>>()
            })
            .collect();
        runs.sort();
        runs.dedup();
        if runs.is_empty() {
            continue;
        }
        let seen = format!(
            "{function} is run for rows that replication applies ({}), where the search path is empty: {} would not be found, and the \
             flow would stop at the first such row.",
            few(&runs),
            few(missing)
        );
        let remedy = format!(
            "write these names with their schemas, or give the function a search path: `ALTER FUNCTION {function} SET search_path = \
             <its schemas>, pg_temp`, on blue, or in the migration where that makes it"
        );
        findings.push(refused(format!("search-path:{function}"), seen, remedy));
    }
    findings
}

/// What is worked out for each row of a table that is applied, with its text.
fn run_for_a_row(look: &Look<'_>, schema: &Catalog, table: &Table) -> Vec<(String, String)> {
    let fires = |name: &str| look.sync_triggers.iter().any(|sync| sync.table == table.name && sync.name == name);
    let triggers = table
        .triggers
        .iter()
        .filter(|trigger| trigger.row_level && (matches!(trigger.enabled.as_str(), "A" | "R") || fires(&trigger.name)));
    let mut run: Vec<(String, String)> =
        triggers.map(|trigger| (format!("trigger `{}`", trigger.name), trigger.definition.clone())).collect();
    let checks = table.constraints.iter().filter(|constraint| constraint.kind == "c");
    run.extend(checks.map(|check| (format!("constraint `{}`", check.name), check.definition.clone())));
    run.extend(table.indexes.iter().map(|index| (format!("index `{}`", index.name), index.definition.clone())));
    for column in &table.columns {
        let expressions = [&column.generated, &column.default];
        run.extend(expressions.into_iter().flatten().map(|text| (format!("column `{}`", column.name), text.clone())));
        let domain = schema.types.get(&column.type_name).filter(|text| text.starts_with("DOMAIN"));
        run.extend(domain.map(|text| (format!("domain {}", column.type_name), text.clone())));
    }
    run
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers};
    use crate::migrate::{Applied, StatementReport, TableWrite, checksum};
    use crate::plan::{Strategy, SyncTrigger};
    use crate::schema::{Constraint, Sequence};
    use crate::word::{RelationName, Timestamp};

    fn writing(kind: &str, columns: &[&str]) -> World {
        World::with(|w| {
            let write = TableWrite {
                table: RelationName::new("public", "orders"),
                kind: kind.to_owned(),
                columns: columns.iter().map(|&column| column.to_owned()).collect(),
                fires: Vec::new(),
            };
            let statement = StatementReport { writes: vec![write], ..World::statement("update orders set ...") };
            w.survey.shadow.as_mut().unwrap().statements.push(statement);
        })
    }

    #[test]
    fn a_function_that_needs_a_search_path_is_refused_where_an_apply_worker_runs_it() {
        let blind = |kind: &str, definition: &str| {
            let (kind, definition) = (kind.to_owned(), definition.to_owned());
            World::with(move |w| {
                let shadow = w.survey.shadow.as_mut().unwrap();
                shadow.blind.insert("public.norm".to_owned(), vec!["`squeeze` in public.norm, line 3".to_owned()]);
                let orders = shadow.after.tables.get_mut("public.orders").unwrap();
                orders.constraints.push(Constraint { name: "k".to_owned(), kind, definition, validated: true });
            })
        };
        let world = blind("c", "CHECK (public.norm(note) <> ''::text)");
        assert_answers(&world, "search-path:public.norm", "refused");
        assert!(world.finding("search-path:public.norm").unwrap().seen.contains("constraint `k` of public.orders"));
        assert_answers(&blind("c", "CHECK (other_public.norm(note) <> '')"), "search-path:public.norm", "none");
        assert_answers(&blind("u", "UNIQUE (id)"), "search-path:public.norm", "none");
    }

    #[test]
    fn a_sequence_that_the_migration_sets_needs_a_word() {
        let set =
            World::with(|w| w.survey.shadow.as_mut().unwrap().sequences_set = vec!["public.invoice_no to 1000000".to_owned()]);
        assert_answers(&set, "sequence-set:public.invoice_no", "needs_accept");
        assert!(set.finding("sequence-set:public.invoice_no").unwrap().seen.contains("to 1000000"));
        assert_answers(&World::new(), "sequence-set:public.invoice_no", "none");
    }

    #[test]
    fn a_statement_that_cannot_be_read_needs_a_word() {
        let unread = |change: fn(&mut World)| {
            World::with(move |w| {
                let why = Some("calls `tidy_up`, which makes statements of its own, or cannot be read".to_owned());
                w.survey.shadow.as_mut().unwrap().statements =
                    vec![StatementReport { unread: why, ..World::statement("select tidy_up()") }];
                change(w);
            })
        };
        assert_answers(&unread(|_| ()), "unread-writes:0002:1", "needs_accept");
        assert_answers(&unread(|w| w.input.strategy = Strategy::InPlace), "unread-writes:0002:1", "needs_accept");
        assert_answers(&World::new(), "unread-writes:0002:1", "none");
    }

    #[test]
    fn a_backfill_that_goes_stale_needs_a_word_or_a_trigger() {
        let mut world = writing("update", &["note"]);
        assert_answers(&world, "backfill:public.orders", "needs_accept");
        world.sync_triggers = vec![SyncTrigger { table: RelationName::new("public", "orders"), name: "orders_note".to_owned() }];
        assert_answers(&world, "backfill:public.orders", "handled");
        assert_answers(&world, "sync-triggers", "handled");
        assert_answers(&World::new(), "sync-triggers", "none");
        assert_answers(&World::new(), "backfill:public.orders", "none");
        assert_answers(&writing("copy", &["orders_by_day"]), "backfill:public.orders", "none");
    }

    #[test]
    fn a_freeze_that_is_expected_to_last_longer_than_it_may_needs_a_word() {
        let freeze = |limit_ms: u64| {
            let mut world = writing("update", &["note"]);
            world.input.strategy = Strategy::Freeze;
            world.input.window.max_pause_ms = limit_ms;
            world
        };
        let long = freeze(600_000).finding("expected-pause").unwrap();
        // 2 GB are written, and the same 2 GB are compared.
        assert!(long.seen.contains("about 206 s"), "{}", long.seen);
        assert_answers(&freeze(600_000), "expected-pause", "fine");
        assert_answers(&freeze(5_000), "expected-pause", "needs_accept");
        assert_answers(&World::new(), "expected-pause", "none");
    }

    #[test]
    fn a_new_constraint_is_said_and_a_foreign_key_needs_a_word() {
        let with_constraint = |kind: &str| {
            let constraint =
                Constraint { name: "orders_new".to_owned(), kind: kind.to_owned(), definition: String::new(), validated: true };
            World::with(|w| {
                let after = &mut w.survey.shadow.as_mut().unwrap().after;
                after.tables.get_mut("public.orders").unwrap().constraints.push(constraint.clone());
            })
        };
        assert_answers(&World::new(), "new-constraints", "none");
        assert_answers(&with_constraint("c"), "new-constraints", "handled");
        assert_answers(&with_constraint("f"), "new-foreign-keys:public.orders.orders_new", "handled");
        assert_answers(&with_constraint("c"), "new-foreign-keys:public.orders.orders_new", "none");
    }

    #[test]
    fn a_column_of_blues_that_gets_its_numbers_from_a_new_sequence_is_refused() {
        let with_sequence = |name: &str, owned_by: &str| {
            let name = RelationName::new("public", name);
            let sequence = Sequence {
                name: name.clone(),
                type_name: "bigint".to_owned(),
                increment: 1,
                minimum: 1,
                maximum: i64::MAX,
                cycle: false,
                owned_by: Some(owned_by.to_owned()),
            };
            World::with(|w| {
                let shadow = w.survey.shadow.as_mut().unwrap();
                shadow.after.sequences.insert(name.to_string(), sequence.clone());
            })
        };
        let code = "new-sequence:public.orders_id_seq1";
        assert_answers(&World::new(), code, "none");
        assert_answers(&with_sequence("orders_id_seq1", "public.orders.id"), code, "refused");
        assert_answers(&with_sequence("orders_id_seq1", "public.\"orders\".\"id\""), code, "refused");
        assert_answers(&with_sequence("orders_id_seq1", "public.orders.note"), code, "none");
        let mut old = with_sequence("orders_id_seq1", "public.orders.id");
        let shadow = old.survey.shadow.as_mut().unwrap();
        shadow.before.sequences.clone_from(&shadow.after.sequences);
        assert_answers(&old, code, "none");
    }

    #[test]
    fn without_a_migration_no_shadow_is_needed() {
        let mut world = World::with(|w| w.survey.shadow = Err("no programs of PostgreSQL 15 were found".to_owned()));
        assert_answers(&world, "shadow", "handled");
        world.input.migrations.clear();
        assert_answers(&world, "shadow", "none");
        assert_answers(&world, "migrations", "fine");
        assert_answers(&World::new(), "shadow", "fine");
        assert_answers(&World::new(), "history-table", "handled");
    }

    #[test]
    fn a_shadow_of_another_schema_is_refused() {
        assert_answers(&World::new(), "shadow-differs", "none");
        assert_answers(&World::with(|w| drop(w.table("public.orders").columns.pop())), "shadow-differs", "refused");
    }

    #[test]
    fn a_changed_file_and_one_out_of_order_are_noticed() {
        let applied = |version: &str, checksum: &str| {
            let applied = Applied {
                version: version.to_owned(),
                checksum: checksum.to_owned(),
                applied_at: Timestamp::UNIX_EPOCH,
                execution_time_ms: 1,
            };
            World::with(|w| w.survey.applied.push(applied.clone()))
        };
        assert_answers(&applied("0002", "another"), "migration-changed:0002", "refused");
        assert_answers(&applied("0002", "c2"), "migration-changed:0002", "none");
        assert_answers(&applied("0009", "c9"), "migration-out-of-order:0002", "needs_accept");
        assert_answers(&applied("0001", "c1"), "migration-out-of-order:0002", "none");
        assert_answers(&applied("0001", "c1"), "migration-without-file:0001", "needs_accept");
        // By number, not by text.
        assert_answers(&applied("00002", "c2"), "migration-without-file:00002", "none");
        assert_answers(&applied("11", "c"), "migration-out-of-order:0002", "needs_accept");
        let crlf = checksum("alter table orders add column note text;\r\n");
        let mut world = applied("0002", &crlf);
        "alter table orders add column note text;\n".clone_into(&mut world.input.migrations[0].up);
        assert!(world.finding("migration-changed:0002").unwrap().seen.contains("line ends"));
    }
}
