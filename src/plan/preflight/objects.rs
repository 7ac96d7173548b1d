//! What logical replication does not carry, or carries in a way of its own.

use super::{Look, fine, handled, needs_accept};
use crate::plan::figures::{count, few};
use crate::plan::{Finding, StepName};
use crate::schema::{Partition, Persistence, Table};
use crate::word::RelationName;

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let mut findings = vec![large_objects(look)];
    findings.extend(unlogged(look));
    findings.push(materialized_views(look));
    findings.push(sequences(look));
    findings.push(partitioned(look));
    findings.push(generated(look));
    findings.push(foreign(look));
    findings.push(fence());
    let how = "blue's schema is compared with the planned one: a table or partition that somebody makes meanwhile keeps the window shut";
    findings.push(handled("drift", "DDL on blue during the sync does not reach green.", StepName::Window, how));
    findings
}

fn tables(look: &Look<'_>, which: impl Fn(&Table) -> bool) -> Vec<RelationName> {
    look.blue().catalog.tables.values().filter(|table| which(table)).map(|table| table.name.clone()).collect()
}

/// What the finding about large objects is called.
pub(in crate::plan) const LARGE_OBJECTS: &str = "large-objects";

fn large_objects(look: &Look<'_>) -> Finding {
    let number = look.blue().large_objects;
    let are_made = look.survey.shadow.as_ref().is_ok_and(|shadow| shadow.large_objects);
    if number == 0 && !are_made {
        let seen = "The database has no large objects; the first one that is made keeps the window shut.";
        return fine(LARGE_OBJECTS, seen);
    }
    let consequence = "those made, changed or removed after green is attached differ between the sides: a large object written on blue is \
                       missing on green, and the other way round after the window";
    let made = if are_made { ", and the migrations make some" } else { "" };
    let seen = format!("The database has {}{made}.", count(usize::try_from(number).unwrap_or(usize::MAX), "large object"));
    needs_accept(LARGE_OBJECTS, seen, consequence)
}

fn unlogged(look: &Look<'_>) -> Vec<Finding> {
    let tables =
        tables(look, |table| table.persistence == Persistence::Unlogged && !matches!(table.partition, Partition::Root { .. }));
    if tables.is_empty() {
        return vec![fine("unlogged-tables", "No table is unlogged.")];
    }
    let findings = tables.iter().map(|table| {
        let consequence = "it is empty on green when the window opens, and its rows stay on blue";
        needs_accept(format!("unlogged-tables:{table}"), format!("Table {table} is unlogged."), consequence)
    });
    findings.collect()
}

fn materialized_views(look: &Look<'_>) -> Finding {
    let views = look.blue().catalog.views.values().filter(|view| view.materialized && view.populated);
    let views: Vec<&RelationName> = views.map(|view| &view.name).collect();
    if views.is_empty() {
        return fine("materialized-views", "There is no materialized view with data.");
    }
    let how = "refreshed on green; a refresh on blue does not travel, nor one on green during the soak";
    let seen = format!("{}: {}.", count(views.len(), "materialized view"), few(&views));
    handled("materialized-views", seen, StepName::WarmGreen, how)
}

fn sequences(look: &Look<'_>) -> Finding {
    let sequences = &look.blue().catalog.sequences;
    if sequences.is_empty() {
        return fine("sequences", "The database has no sequence.");
    }
    let how = format!("set inside the pause to blue's values and {} steps more", look.input.window.sequence_margin);
    let cycling = sequences.values().filter(|sequence| sequence.cycle).count();
    let cycling =
        if cycling == 0 { String::new() } else { format!(" {} at its end from the start.", count(cycling, "of them begins")) };
    let seen = format!("{}; replication does not carry their values.{cycling}", count(sequences.len(), "sequence"));
    handled("sequences", seen, StepName::Window, how)
}

fn partitioned(look: &Look<'_>) -> Finding {
    let roots = tables(look, |table| matches!(table.partition, Partition::Root { .. }));
    if roots.is_empty() {
        return fine("partitioned-tables", "No table is partitioned.");
    }
    let how = "published as their roots, so that the partitions may differ between the sides";
    let seen = format!("{}: {}.", count(roots.len(), "partitioned table"), few(&roots));
    handled("partitioned-tables", seen, StepName::PublishBlue, how)
}

fn generated(look: &Look<'_>) -> Finding {
    let columns = look.published().filter_map(|(flow, _)| look.blue().catalog.tables.get(&flow.table.to_string()));
    let number = columns.flat_map(|table| &table.columns).filter(|column| column.generated.is_some()).count();
    if number == 0 {
        return fine("generated-columns", "No published table has a generated column.");
    }
    fine(
        "generated-columns",
        format!("{} in published tables: not sent, and computed anew on either side.", count(number, "generated column")),
    )
}

fn foreign(look: &Look<'_>) -> Finding {
    let tables = tables(look, |table| table.foreign);
    if tables.is_empty() {
        return fine("foreign-tables", "There is no foreign table.");
    }
    let seen = format!(
        "{}: {}. Not replicated and not fenced: both sides reach the same rows elsewhere.",
        count(tables.len(), "foreign table"),
        few(&tables)
    );
    fine("foreign-tables", seen)
}

/// The fence of the pause leaves nothing open; the one of the long times before and after it does.
fn fence() -> Finding {
    let seen = "Outside the pause, the side that follows is fenced by triggers. They leave open: DDL, `nextval`, tables of extensions, \
                foreign tables, large objects, and a superuser who sets `session_replication_role = replica`.";
    let how = "every path that is fenced is tried with a write that must be refused, before the pause, inside it and after it";
    handled("fence", seen, StepName::Window, how)
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers};
    use crate::schema::{Persistence, Sequence, View};
    use crate::word::RelationName;

    #[test]
    fn what_replication_does_not_carry_needs_a_word() {
        assert_answers(&World::new(), "large-objects", "fine");
        assert_answers(&World::with(|w| w.blue().large_objects = 7), "large-objects", "needs_accept");
        assert_answers(&World::new(), "unlogged-tables", "fine");
        let unlogged = World::with(|w| w.table("public.orders").persistence = Persistence::Unlogged);
        assert_answers(&unlogged, "unlogged-tables:public.orders", "needs_accept");
        assert_answers(&World::new(), "foreign-tables", "fine");
        let foreign = World::with(|w| w.table("public.orders").foreign = true);
        assert!(foreign.finding("foreign-tables").unwrap().seen.contains("public.orders"));
    }

    #[test]
    fn what_a_step_brings_over_is_said() {
        let view = View {
            name: RelationName::new("public", "totals"),
            definition: "select 1".to_owned(),
            materialized: true,
            populated: true,
            unique_index: false,
        };
        let with_view = World::with(|w| drop(w.blue().catalog.views.insert("public.totals".to_owned(), view.clone())));
        assert_answers(&World::new(), "materialized-views", "fine");
        assert_answers(&with_view, "materialized-views", "handled");
        let sequence = Sequence {
            name: RelationName::new("public", "orders_id_seq"),
            type_name: "bigint".to_owned(),
            increment: 1,
            minimum: 1,
            maximum: i64::MAX,
            cycle: false,
            owned_by: None,
        };
        let with_sequence =
            World::with(|w| drop(w.blue().catalog.sequences.insert("public.orders_id_seq".to_owned(), sequence.clone())));
        assert_answers(&World::new(), "sequences", "fine");
        assert_answers(&with_sequence, "sequences", "handled");
        assert_answers(&World::new(), "partitioned-tables", "fine");
        assert_answers(&World::with(World::partition_orders), "partitioned-tables", "handled");
        assert_answers(&World::new(), "drift", "handled");
        assert_answers(&World::new(), "fence", "handled");
    }

    #[test]
    fn generated_columns_are_counted() {
        assert!(World::new().finding("generated-columns").unwrap().seen.starts_with("No "));
        let generated = World::with(|w| w.table("public.orders").columns[1].generated = Some("(id * 2) STORED".to_owned()));
        assert!(generated.finding("generated-columns").unwrap().seen.starts_with("1 generated column "));
    }
}
