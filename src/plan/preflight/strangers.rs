//! Whose code runs with our rights because a table calls it by itself, where that cannot be avoided.

use super::{Look, fine, needs_accept};
use crate::plan::{Finding, ServerSurvey, Stranger, StrangerVia};
use crate::schema::{SharedColumns, TableFlow};
use crate::word::{RelationName, Side};

/// From here on an apply worker takes on the rights of each table's owner.
const OWNERS_APPLY: u32 = 16;

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let mut findings = applied(look);
    findings.extend(compared(look));
    findings.extend(assertions(look));
    findings.extend(look.servers().into_iter().filter_map(|(side, server)| views(side, server)));
    findings
}

/// What is called for a published table's rows, or for those of its partitions.
fn of<'a>(look: &'a Look<'_>, table: &'a RelationName) -> impl Iterator<Item = &'a Stranger> {
    let tables = &look.blue().catalog.tables;
    let root = |part: &RelationName| tables.get(&part.to_string()).and_then(|table| table.root()).cloned();
    look.blue().strangers.iter().filter(move |found| found.table == *table || root(&found.table).as_ref() == Some(table))
}

fn listed(found: &[&Stranger]) -> String {
    let mut listed: Vec<String> = found.iter().map(ToString::to_string).collect();
    listed.dedup();
    listed.join(", ")
}

fn remedy(look: &Look<'_>, found: &[&Stranger]) -> String {
    let mut functions: Vec<&str> = found.iter().map(|found| found.function.as_str()).collect();
    functions.sort_unstable();
    functions.dedup();
    let user = &look.blue().user;
    format!("read {}, and take them over first: ALTER FUNCTION ... OWNER TO \"{user}\"", functions.join(", "))
}

fn applied(look: &Look<'_>) -> Vec<Finding> {
    const CODE: &str = "apply-as-superuser";
    let major = look.blue().major();
    if major >= OWNERS_APPLY {
        return Vec::new();
    }
    let called = |(flow, shared): (&TableFlow, &SharedColumns)| {
        let narrowed = shared.forward.is_some() || shared.reverse.is_some();
        let found: Vec<&Stranger> = of(look, &flow.table).filter(|found| is_called(found, narrowed)).collect();
        (!found.is_empty()).then(|| {
            let seen = format!("Table {} calls what is no superuser's when a row is applied: {}.", flow.table, listed(&found));
            let consequence = format!(
                "PostgreSQL {major} applies rows with the rights of the subscription's owner, so that whoever owns these functions, or \
                 becomes their owner, can do anything on either server; to avoid it {}",
                remedy(look, &found)
            );
            needs_accept(format!("{CODE}:{}", flow.table), seen, consequence)
        })
    };
    look.published().filter_map(called).collect()
}

/// Whether an apply worker calls it. Defaults count where rows come without a value for some column.
fn is_called(found: &Stranger, narrowed: bool) -> bool {
    match found.via {
        StrangerVia::Trigger | StrangerVia::Rule | StrangerVia::Statistics => false,
        StrangerVia::Default => narrowed,
        StrangerVia::Check
        | StrangerVia::Index
        | StrangerVia::Generated
        | StrangerVia::TriggerAlways
        | StrangerVia::PartitionKey
        | StrangerVia::Type => true,
    }
}

fn compared(look: &Look<'_>) -> Vec<Finding> {
    if !look.input.validate.rows {
        return Vec::new();
    }
    let planned = |(flow, _): (&TableFlow, &SharedColumns)| {
        if look.excluded.contains(&flow.table) {
            return None;
        }
        let found: Vec<&Stranger> = of(look, &flow.table).filter(|found| found.at_planning).collect();
        (!found.is_empty()).then(|| {
            let seen = format!("Whoever reads table {} runs {} while his query is planned.", flow.table, listed(&found));
            let consequence = format!(
                "comparing its rows runs that with the rights of `{}`; to avoid it {}, or name the table in `validate.exclude`",
                look.blue().user,
                remedy(look, &found)
            );
            needs_accept(format!("read-as-superuser:{}", flow.table), seen, consequence)
        })
    };
    look.published().filter_map(planned).collect()
}

/// Minor versions from which on a session can be told to read tables and no views (`restrict_nonsystem_relation_kind`).
fn views(side: Side, server: &ServerSurvey) -> Option<Finding> {
    let knows = match server.major() {
        ..=15 => 150_008,
        16 => 160_004,
        _ => 0,
    };
    (server.version < knows).then(|| {
        let seen = format!("PostgreSQL {}.{} on {side} cannot be told to read no views.", server.major(), server.version % 10_000);
        let consequence = format!(
            "whoever puts a view in the place of a table in the moment in which its rows are read has its functions run with the rights \
             of `{}`; to avoid it install the newest minor version first",
            server.user
        );
        needs_accept(format!("old-minor:{side}"), seen, consequence)
    })
}

fn assertions(look: &Look<'_>) -> Option<Finding> {
    if look.input.validate.assertions.is_empty() {
        return None;
    }
    let seen = "The playbook's assertions run as `pg_read_all_data`, which reads all and can do nothing else; on a server that is still in \
                recovery as our own role, and so do the functions and views that they name there.";
    Some(fine("assertions", seen))
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers};
    use crate::plan::{Stranger, StrangerVia};
    use crate::word::RelationName;

    fn with(via: StrangerVia, at_planning: bool) -> World {
        World::with(|w| {
            w.blue().strangers = vec![Stranger {
                table: RelationName::new("public", "orders"),
                via,
                name: "it".to_owned(),
                function: "public.f".to_owned(),
                owner: "app".to_owned(),
                at_planning,
            }];
        })
    }

    #[test]
    fn what_runs_with_our_rights_when_rows_are_applied_needs_a_word_before_16() {
        assert!(World::new().finding("apply-as-superuser:public.orders").is_none());
        for via in [StrangerVia::Check, StrangerVia::Index, StrangerVia::Type, StrangerVia::TriggerAlways, StrangerVia::Generated]
        {
            let mut world = with(via, false);
            assert_answers(&world, "apply-as-superuser:public.orders", "needs_accept");
            world.blue().version = 160_004;
            assert!(world.finding("apply-as-superuser:public.orders").is_none());
        }
        let seen = with(StrangerVia::Check, false).finding("apply-as-superuser:public.orders").unwrap().seen;
        assert!(seen.contains("public.f of role `app` (constraint `it`)"), "{seen}");
        for via in [StrangerVia::Trigger, StrangerVia::Rule, StrangerVia::Statistics, StrangerVia::Default] {
            assert!(with(via, false).finding("apply-as-superuser:public.orders").is_none());
        }
    }

    #[test]
    fn a_server_that_cannot_leave_views_alone_needs_a_word() {
        assert_answers(&World::new(), "old-minor:blue", "none");
        assert_answers(&World::with(|w| w.blue().version = 150_007), "old-minor:blue", "needs_accept");
        assert_answers(&World::with(|w| w.green().version = 160_003), "old-minor:green", "needs_accept");
    }

    #[test]
    fn what_runs_when_a_query_is_planned_needs_a_word_unless_the_table_is_not_compared() {
        let mut world = with(StrangerVia::Index, true);
        assert_answers(&world, "read-as-superuser:public.orders", "needs_accept");
        assert!(with(StrangerVia::Index, false).finding("read-as-superuser:public.orders").is_none());
        world.input.validate.exclude = vec![RelationName::new("public", "orders")];
        assert!(world.finding("read-as-superuser:public.orders").is_none());
    }
}
