//! Which tables the migrations touch: of a freeze these alone are compared with blue, and get new statistics.
//!
//! In the shadow there are no rows, and no row fires a trigger there. So what triggers and foreign keys would write in answer
//! is read from the schema. **Invariant:** what cannot be read counts as touching everything.

use crate::migrate::{ShadowReport, TableWrite, Touch, WrittenName, body_writes};
use crate::schema::{Catalog, SeenWrite, Table, Trigger};
use crate::word::RelationName;
use std::collections::BTreeSet;

/// Triggers of PostgreSQL's own, which change nothing but their own row.
const HARMLESS: [&str; 3] = ["suppress_redundant_updates_trigger", "tsvector_update_trigger", "tsvector_update_trigger_column"];

pub(super) struct Touched {
    /// `None`: any table may be.
    tables: Option<BTreeSet<RelationName>>,
    /// What triggers and foreign keys write.
    pub(super) in_answer: Vec<SeenWrite>,
}

impl Touched {
    pub(super) fn read(shadow: &ShadowReport, writes: &[SeenWrite]) -> Touched {
        let mut touched = BTreeSet::new();
        for statement in &shadow.statements {
            let reads = |mode: &str| matches!(mode, "AccessShareLock" | "RowShareLock");
            touched.extend(statement.locks.iter().filter(|lock| !reads(&lock.mode)).map(|lock| lock.table.clone()));
            touched.extend(statement.rewrites.iter().cloned());
        }
        let unread = shadow.statements.iter().any(|statement| statement.unread.is_some());
        let mut answers = Answers { shadow, in_answer: Vec::new(), unread };
        for seen in writes {
            touched.insert(seen.write.table.clone());
            answers.follow(seen);
        }
        touched.extend(answers.in_answer.iter().map(|seen| seen.write.table.clone()));
        let root = |name: RelationName| {
            let table = shadow.before.tables.get(&name.to_string());
            table.and_then(Table::root).cloned().unwrap_or(name)
        };
        let tables = (!answers.unread).then(|| touched.into_iter().map(root).collect());
        Touched { tables, in_answer: answers.in_answer }
    }

    pub(super) fn contains(&self, table: &RelationName) -> bool {
        self.tables.as_ref().is_none_or(|tables| tables.contains(table))
    }

    /// The tables of green's that are not as blue's statistics say.
    pub(super) fn analyze(&self, shadow: &ShadowReport, history: &RelationName) -> Vec<RelationName> {
        let tables = shadow.after.tables.values().filter(|table| !table.foreign && table.root().is_none());
        let new = |name: &RelationName| !shadow.before.tables.contains_key(&name.to_string());
        let names = tables.map(|table| &table.name).filter(|name| *name != history);
        names.filter(|name| self.contains(name) || new(name)).cloned().collect()
    }
}

struct Answers<'a> {
    shadow: &'a ShadowReport,
    in_answer: Vec<SeenWrite>,
    unread: bool,
}

impl Answers<'_> {
    /// What is written in answer to one write, and in answer to that.
    fn follow(&mut self, seen: &SeenWrite) {
        for answer in self.answers(seen) {
            if !self.in_answer.iter().any(|known| known.write == answer.write) {
                self.in_answer.push(answer.clone());
                self.follow(&answer);
            }
        }
    }

    fn answers(&mut self, seen: &SeenWrite) -> Vec<SeenWrite> {
        let shadow = self.shadow;
        let mut found = Vec::new();
        for catalog in [&shadow.before, &shadow.after] {
            let is_it = |table: &&Table| table.name == seen.write.table || table.root() == Some(&seen.write.table);
            for table in catalog.tables.values().filter(is_it) {
                for trigger in table.triggers.iter().filter(|trigger| fires(trigger, &seen.write.kind)) {
                    let touches = writes_of(trigger, catalog);
                    self.unread |= touches.is_none();
                    let written = touches.into_iter().flatten().flat_map(|touch| by_trigger(touch, trigger, seen, catalog));
                    found.extend(written);
                }
            }
            found.extend(catalog.tables.values().flat_map(|table| by_foreign_keys(table, seen)));
        }
        found
    }
}

/// Whether it may fire for a write of this kind.
fn fires(trigger: &Trigger, kind: &str) -> bool {
    let head = trigger.definition.split(" ON ").next().unwrap_or_default();
    trigger.enabled != "D" && head.split_whitespace().any(|word| word.eq_ignore_ascii_case(kind))
}

fn writes_of(trigger: &Trigger, catalog: &Catalog) -> Option<Vec<Touch>> {
    let (_, call) = trigger.definition.rsplit_once("EXECUTE FUNCTION ")?;
    let function = call.split_once('(').map_or(call, |(name, _)| name);
    if HARMLESS.contains(&function) {
        return Some(Vec::new());
    }
    let simple =
        |signature: &str| signature.split('(').next().and_then(|name| name.rsplit('.').next()).map(|name| name.replace('"', ""));
    let names: Vec<String> =
        catalog.functions.keys().filter(|key| **key != format!("{function}()")).filter_map(|key| simple(key)).collect();
    body_writes(catalog.functions.get(&format!("{function}()"))?, &names.iter().map(String::as_str).collect())
}

fn by_trigger(touch: Touch, trigger: &Trigger, seen: &SeenWrite, catalog: &Catalog) -> Vec<SeenWrite> {
    let Touch::Write { table: WrittenName { schema, name }, kind, columns } = touch else { return Vec::new() };
    let named = catalog
        .tables
        .values()
        .filter(|table| table.name.name == name && schema.as_ref().is_none_or(|schema| *schema == table.name.schema));
    named
        .map(|table| {
            let fires = table.triggers.iter().filter(|trigger| trigger.row_level && fires(trigger, kind));
            let fires = fires.map(|trigger| trigger.name.clone()).collect();
            let write = TableWrite { table: table.name.clone(), kind: kind.to_owned(), columns: columns.clone(), fires };
            SeenWrite { write, by: format!("{}, by trigger `{}` of {},", seen.by, trigger.name, seen.write.table) }
        })
        .collect()
}

/// What the foreign keys of a table do to it in answer to a write of the table that they name.
fn by_foreign_keys(table: &Table, seen: &SeenWrite) -> Vec<SeenWrite> {
    let of = |action: &str| match (seen.write.kind.as_str(), action) {
        ("delete", "CASCADE") => Some("delete"),
        ("delete" | "update", "CASCADE" | "SET NULL" | "SET DEFAULT") => Some("update"),
        _ => None,
    };
    let mut found = Vec::new();
    for key in table.constraints.iter().filter(|constraint| constraint.kind == "f") {
        let Some((own, target)) = key.definition.split_once(" REFERENCES ") else { continue };
        let Some((target, rest)) = target.split_once(')') else { continue };
        let Some((target, named)) = target.split_once('(') else { continue };
        let event = format!("ON {} ", seen.write.kind.to_uppercase());
        let Some((_, action)) = rest.split_once(&event) else { continue };
        let action = ["CASCADE", "SET NULL", "SET DEFAULT"].into_iter().find(|known| action.starts_with(known));
        let Some(kind) = action.and_then(of) else { continue };
        let changed = |column: &str| seen.write.columns.iter().any(|set| *set == column.trim().replace('"', ""));
        let spared =
            kind == "update" && seen.write.kind == "update" && !seen.write.columns.is_empty() && !named.split(',').any(changed);
        if target != seen.write.table.to_string() || spared {
            continue;
        }
        let columns = if kind == "update" { columns_in(own) } else { Vec::new() };
        let fires = table.triggers.iter().filter(|trigger| trigger.row_level && fires(trigger, kind));
        let fires = fires.map(|trigger| trigger.name.clone()).collect();
        let write = TableWrite { table: table.name.clone(), kind: kind.to_owned(), columns, fires };
        found.push(SeenWrite { write, by: format!("{}, by foreign key `{}`,", seen.by, key.name) });
    }
    found
}

/// From `FOREIGN KEY (a, "B")`.
fn columns_in(key: &str) -> Vec<String> {
    let inner = key.split_once('(').map_or("", |(_, rest)| rest.trim_end_matches(')'));
    inner.split(',').map(|column| column.trim().replace('"', "")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::preflight::example::World;
    use crate::plan::{Plan, Strategy};
    use crate::schema::{Constraint, Flow, Verdict};

    /// A freeze in which orders are updated, with tables that nothing touches, and a trigger on orders with this body.
    fn frozen(body: Option<&str>) -> World {
        let mut world = World::migrating();
        world.input.strategy = Strategy::Freeze;
        let Some(body) = body else { return world };
        let definition = "CREATE TRIGGER note AFTER UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.note()";
        let trigger =
            Trigger { name: "note".to_owned(), definition: definition.to_owned(), enabled: "O".to_owned(), row_level: true };
        let function = format!("CREATE OR REPLACE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $f$ {body} $f$");
        let helper = "CREATE OR REPLACE FUNCTION public.helper() RETURNS int LANGUAGE sql AS $f$ SELECT 1 $f$";
        let shadow = world.survey.shadow.as_mut().unwrap();
        for catalog in [&mut shadow.before, &mut shadow.after, &mut world.survey.blue.catalog] {
            catalog.tables.get_mut("public.orders").unwrap().triggers.push(trigger.clone());
            catalog.functions.insert("public.note()".to_owned(), function.clone());
            catalog.functions.insert("public.helper()".to_owned(), helper.to_owned());
        }
        world
    }

    fn excluded(plan: &Plan) -> Vec<&str> {
        plan.validate.exclude.iter().map(|table| table.name.as_str()).collect()
    }

    #[test]
    fn what_no_statement_touches_is_not_compared_and_the_rest_gets_statistics() {
        let plan = frozen(None).plan();
        assert_eq!(excluded(&plan), ["table_0", "table_1", "table_2"]);
        assert_eq!(plan.analyze, [RelationName::new("public", "orders")]);
    }

    #[test]
    fn what_a_trigger_writes_is_touched_and_a_rollback_would_not_undo_it() {
        let plan = frozen(Some("BEGIN INSERT INTO table_1 VALUES (NEW.id); RETURN NULL; END")).plan();
        assert_eq!(excluded(&plan), ["table_0", "table_2"]);
        let noted = plan.tables.iter().find(|flow| flow.table.name == "table_1").unwrap();
        assert!(matches!(&noted.flow, Flow::Both(shared) if shared.rewritten), "{noted:?}");
        let Verdict::RollbackWouldLose { what, accepted: false } = &noted.verdict else { panic!("{noted:?}") };
        assert!(what[0].contains("by trigger `note` of public.orders, inserts rows"), "{what:?}");
        assert_eq!(plan.analyze.len(), 2);
    }

    #[test]
    fn what_cannot_be_read_may_touch_every_table() {
        for body in [
            "BEGIN EXECUTE 'INSERT INTO table_1 VALUES (1)'; RETURN NULL; END",
            "BEGIN PERFORM helper(); RETURN NULL; END",
            "BEGIN INSERT INTO INTO; END",
        ] {
            assert_eq!(excluded(&frozen(Some(body)).plan()), [""; 0], "{body}");
        }
        let reads = "BEGIN NEW.note := lower(NEW.note); RETURN NEW; END";
        assert_eq!(excluded(&frozen(Some(reads)).plan()).len(), 3, "{reads}");
        let mut world = frozen(Some(reads));
        world.survey.shadow.as_mut().unwrap().before.functions.clear();
        assert_eq!(excluded(&world.plan()), [""; 0], "a function that is not to be seen");
    }

    #[test]
    fn what_a_foreign_key_deletes_in_answer_is_touched() {
        let mut world = frozen(None);
        let shadow = world.survey.shadow.as_mut().unwrap();
        shadow.statements[1].writes[0].kind = "delete".to_owned();
        for catalog in [&mut shadow.before, &mut shadow.after, &mut world.survey.blue.catalog] {
            for (table, action) in [("table_0", " ON DELETE CASCADE"), ("table_1", " ON UPDATE CASCADE"), ("table_2", "")] {
                let definition = format!("FOREIGN KEY (id) REFERENCES public.orders(id){action}");
                let key = Constraint { name: "of_order".to_owned(), kind: "f".to_owned(), definition, validated: true };
                catalog.tables.get_mut(&format!("public.{table}")).unwrap().constraints.push(key);
            }
        }
        assert_eq!(excluded(&world.plan()), ["table_1", "table_2"]);
    }
}
