//! Table by table: can its rows be told apart, what fires for them, what would a rollback lose?

use super::{Look, fine, needs_accept, refused};
use crate::plan::figures::count;
use crate::plan::{Answer, Finding};
use crate::schema::{Partition, ReplicaIdentity, SharedColumns, Table, TableFlow, Verdict};
use crate::word::RelationName;
use std::collections::BTreeMap;

/// From here on a table that has to be searched through for every updated row stops the flow.
const ROWS_SEARCHED_MAX: u64 = 10_000;

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let parts = Parts::of(look);
    let mut findings = identities(look, &parts);
    findings.extend(triggers(look, &parts));
    for role in &look.blue().replica_roles {
        let seen = format!("Sessions of {role} begin with `session_replication_role = replica`.");
        let consequence = "they pass the fence's triggers: outside the pause they can write to the side that follows";
        findings.push(needs_accept(format!("replica-roles:{role}"), seen, consequence));
    }
    findings.extend(verdicts(look.tables));
    findings
}

/// The tables that hold a published table's rows: itself, or its partitions that are not partitioned further.
struct Parts<'a> {
    leaves: BTreeMap<&'a RelationName, Vec<&'a Table>>,
    tables: &'a BTreeMap<String, Table>,
}

impl<'a> Parts<'a> {
    fn of(look: &Look<'a>) -> Parts<'a> {
        let tables = &look.blue().catalog.tables;
        let mut leaves: BTreeMap<&RelationName, Vec<&Table>> = BTreeMap::new();
        for table in tables.values() {
            if let Partition::Of { root, key: None, .. } = &table.partition {
                leaves.entry(root).or_default().push(table);
            }
        }
        Parts { leaves, tables }
    }

    fn with_rows(&self, table: &RelationName) -> Vec<&'a Table> {
        match self.tables.get(&table.to_string()) {
            Some(Table { partition: Partition::Root { .. }, .. }) => self.leaves.get(table).cloned().unwrap_or_default(),
            Some(table) => vec![table],
            None => Vec::new(),
        }
    }
}

/// A published table without a usable identity makes every UPDATE and DELETE on blue fail at once. So does one whose
/// identity the column list does not hold.
fn identities(look: &Look<'_>, parts: &Parts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (flow, shared) in look.published().filter(|(flow, _)| !matches!(flow.verdict, Verdict::Refused { .. })) {
        for table in parts.with_rows(&flow.table) {
            findings.extend(identity(look, table, shared));
        }
    }
    if findings.is_empty() {
        let seen = format!("{}; the rows of each can be told apart.", count(look.published().count(), "published table"));
        findings.push(fine("replica-identity", seen));
    }
    findings
}

fn identity(look: &Look<'_>, table: &Table, shared: &SharedColumns) -> Option<Finding> {
    let code = format!("replica-identity:{}", table.name);
    let fit = |name: &String| {
        let index = table.indexes.iter().find(|index| index.name == *name && index.valid);
        index.and_then(|index| index.identity_columns.clone()).unwrap_or_default()
    };
    let key = match &table.identity {
        // A primary key's index has its name. A deferrable one is no identity.
        ReplicaIdentity::Default => {
            table.constraints.iter().find(|constraint| constraint.kind == "p").map(|key| fit(&key.name)).unwrap_or_default()
        }
        ReplicaIdentity::Index(name) => fit(name),
        ReplicaIdentity::Full if shared.forward.is_some() => {
            let seen = format!(
                "Table {} has REPLICA IDENTITY FULL, and the migration needs its publication narrowed: blue would refuse every UPDATE and \
                 DELETE on it.",
                table.name
            );
            return Some(refused(code, seen, "give it a primary key and `ALTER TABLE ... REPLICA IDENTITY DEFAULT`"));
        }
        ReplicaIdentity::Full => return searched_through(look, table),
        ReplicaIdentity::Nothing => Vec::new(),
    };
    if key.is_empty() {
        let seen = format!(
            "Table {} has no primary key, or a deferrable one, and no other replica identity: published, blue would refuse every UPDATE and DELETE on it.",
            table.name
        );
        let remedy = "add a primary key, or `ALTER TABLE ... REPLICA IDENTITY USING INDEX` with a unique index over NOT NULL columns, or \
                      `REPLICA IDENTITY FULL` if it is small";
        return Some(refused(code, seen, remedy));
    }
    let sent = |column: &String| shared.forward.as_ref().is_none_or(|columns| columns.contains(column));
    (!key.iter().all(sent)).then(|| {
        let seen = format!("The migration drops part of the replica identity ({}) of table {}.", key.join(", "), table.name);
        refused(code, seen, "let the table keep its identity's columns on green until after `finish`")
    })
}

/// Without a primary key green has no index by which to find a row.
fn searched_through(look: &Look<'_>, table: &Table) -> Option<Finding> {
    let size = look.blue().table_sizes.iter().find(|size| size.table == table.name);
    let rows = size.map_or(0, |size| size.rows_estimate);
    (table.primary_key.is_empty() && rows > ROWS_SEARCHED_MAX).then(|| {
        let rows = count(usize::try_from(rows).unwrap_or(usize::MAX), "row");
        let seen = format!("Table {} has REPLICA IDENTITY FULL, no primary key, and about {rows}.", table.name);
        let consequence =
            "each UPDATE and DELETE of one of its rows may search through all of it on the following side, and holds up the flow";
        needs_accept(format!("replica-identity-full:{}", table.name), seen, consequence)
    })
}

/// Applied rows fire only the triggers that are made to fire always or for replicas, and these fire a second time.
fn triggers(look: &Look<'_>, parts: &Parts<'_>) -> Vec<Finding> {
    let (mut findings, mut ordinary) = (Vec::new(), 0);
    for (flow, _) in look.published() {
        for table in parts.with_rows(&flow.table) {
            for trigger in table.triggers.iter().filter(|trigger| trigger.row_level) {
                match trigger.enabled.as_str() {
                    "A" | "R" => {
                        let seen = format!("Trigger {} of {} is enabled always or for replicas.", trigger.name, table.name);
                        let consequence = "it fires on the following side too, for rows whose effects arrive there anyway: what it does is done twice";
                        let code = format!("always-triggers:{}.{}", table.name, trigger.name);
                        findings.push(needs_accept(code, seen, consequence));
                    }
                    "O" => ordinary += 1,
                    _ => {}
                }
            }
        }
    }
    if findings.is_empty() {
        let seen = if ordinary == 0 {
            "No trigger on a published table fires for each row.".to_owned()
        } else {
            format!(
                "{} on published tables: silent on the following side, where their effects arrive as rows.",
                count(ordinary, "row trigger")
            )
        };
        findings.push(fine("triggers", seen));
    }
    findings
}

fn verdicts(tables: &[TableFlow]) -> Vec<Finding> {
    let finding = |flow: &TableFlow| match &flow.verdict {
        Verdict::Refused { reasons } => {
            let seen = format!("Table {}: {}.", flow.table, reasons.join("; "));
            let remedy = "change the migration so that both sides can hold these rows, or leave this part to a later one";
            Some(refused(format!("table:{}", flow.table), seen, remedy))
        }
        Verdict::RollbackWouldLose { what, accepted } => {
            let code = format!("not-reversible:{}", flow.table);
            let seen = format!("Table {} cannot be taken back whole.", flow.table);
            let consequence = format!("a rollback would lose: {}", what.join("; "));
            let finding = needs_accept(code, seen, consequence.clone());
            Some(if *accepted { Finding { answer: Answer::Accepted { consequence }, ..finding } } else { finding })
        }
        Verdict::Lossless | Verdict::LosslessWithShim { .. } | Verdict::NotSent { .. } => None,
    };
    tables.iter().filter_map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers};
    use crate::schema::{Flow, Index, ReplicaIdentity, Trigger, Verdict};

    #[test]
    fn a_table_whose_updates_a_publication_would_stop_is_refused() {
        type Change = fn(&mut World);
        let code = "replica-identity:public.orders";
        let cases: [(Change, &str); 7] = [
            (|w| w.table("public.orders").constraints.clear(), "refused"),
            (|w| w.table("public.orders").indexes[0].identity_columns = None, "refused"),
            (|w| w.table("public.orders").identity = ReplicaIdentity::Nothing, "refused"),
            (|w| w.table("public.orders").identity = ReplicaIdentity::Full, "none"),
            (|w| w.narrow_orders(&["id", "total"]), "none"),
            (|w| w.narrow_orders(&["total"]), "refused"),
            (
                |w| {
                    w.table("public.orders").identity = ReplicaIdentity::Full;
                    w.narrow_orders(&["id", "total"]);
                },
                "refused",
            ),
        ];
        assert_answers(&World::new(), "replica-identity", "fine");
        for (change, answer) in cases {
            assert_answers(&World::with(change), code, answer);
        }
    }

    #[test]
    fn an_index_can_be_the_identity() {
        let with_index = |columns: Option<&[&str]>| {
            World::with(|w| {
                let table = w.table("public.orders");
                table.primary_key.clear();
                table.identity = ReplicaIdentity::Index("orders_code".to_owned());
                table.indexes.push(Index {
                    name: "orders_code".to_owned(),
                    definition: String::new(),
                    unique: true,
                    valid: true,
                    identity_columns: columns.map(|columns| columns.iter().map(|&column| column.to_owned()).collect()),
                });
            })
        };
        assert_answers(&with_index(Some(&["total"])), "replica-identity", "fine");
        assert_answers(&with_index(Some(&[])), "replica-identity:public.orders", "refused");
    }

    #[test]
    fn each_partition_is_looked_at_since_it_holds_the_rows() {
        let partitioned = World::with(World::partition_orders);
        assert_answers(&partitioned, "replica-identity", "fine");
        let mut keyless = partitioned;
        keyless.table("public.orders_1").constraints.clear();
        assert_answers(&keyless, "replica-identity:public.orders_1", "refused");
    }

    #[test]
    fn a_big_table_that_is_searched_for_every_row_needs_a_word() {
        let big = |rows| {
            World::with(|w| {
                w.table("public.orders").identity = ReplicaIdentity::Full;
                w.table("public.orders").primary_key.clear();
                w.blue().table_sizes[0].rows_estimate = rows;
            })
        };
        assert_answers(&big(1_000_000), "replica-identity-full:public.orders", "needs_accept");
        assert_answers(&big(10), "replica-identity-full:public.orders", "none");
    }

    #[test]
    fn a_trigger_that_fires_for_applied_rows_needs_a_word() {
        let with_trigger = |enabled: &str| {
            let trigger =
                Trigger { name: "audit".to_owned(), definition: String::new(), enabled: enabled.to_owned(), row_level: true };
            World::with(|w| w.table("public.orders").triggers.push(trigger.clone()))
        };
        assert_answers(&World::new(), "triggers", "fine");
        assert_answers(&with_trigger("O"), "triggers", "fine");
        assert_answers(&with_trigger("A"), "always-triggers:public.orders.audit", "needs_accept");
        assert_answers(&with_trigger("R"), "always-triggers:public.orders.audit", "needs_accept");
    }

    #[test]
    fn a_role_that_passes_the_fence_needs_a_word() {
        assert_answers(&World::with(|w| w.blue().replica_roles.push("etl".to_owned())), "replica-roles:etl", "needs_accept");
        assert_answers(&World::new(), "replica-roles:etl", "none");
    }

    #[test]
    fn a_tables_verdict_becomes_a_finding() {
        let with_verdict = |verdict: Verdict| World::with(|w| w.tables[0].verdict = verdict.clone());
        let refused = with_verdict(Verdict::Refused { reasons: vec!["it is split in two".to_owned()] });
        assert_answers(&refused, "table:public.orders", "refused");
        assert_answers(&World::new(), "table:public.orders", "none");

        let loses = Verdict::RollbackWouldLose { what: vec!["column note".to_owned()], accepted: false };
        let mut world = with_verdict(loses);
        assert_answers(&world, "not-reversible:public.orders", "needs_accept");
        world.input.accept = vec!["not-reversible".to_owned()];
        assert_answers(&world, "not-reversible:public.orders", "needs_accept");
        assert_answers(&world, "unused-accept:not-reversible", "fine");
        world.input.accept = vec!["not-reversible:public.orders".to_owned()];
        assert_answers(&world, "not-reversible:public.orders", "accepted");
        assert_answers(&world, "unused-accept:not-reversible:public.orders", "none");
    }

    #[test]
    fn a_table_that_is_not_published_needs_no_identity() {
        let out = |w: &mut World| {
            w.table("public.orders").constraints.clear();
            w.tables[0].flow = Flow::Out { because: "the history table".to_owned() };
        };
        assert_answers(&World::with(out), "replica-identity:public.orders", "none");
    }
}
