//! A server of the simulated world, as one process sees it.

use crate::{
    fault::{Call, Kind, Part},
    plan::{BLUE_SCHEMA, GREEN_SCHEMA, INHERITED, PHYSICAL_SLOT, schema},
    world::{Flow, Node, Shared, What, World},
};
use async_trait::async_trait;
use greenlight::{
    plan::{Access, ClientSession, HbaRule, Names, RoleAccess, SyncTrigger},
    postgres::{
        Fence, FenceProbe, ForkPoint, Identity, LongTransaction, PublishedTable, SequencePlace, SequenceValue, Server, SlotState,
        SubscriptionState,
    },
    schema::Fingerprint,
    validate::Progress,
    word::{Failure, Lsn, PortError, RelationName, Side, Timestamp},
};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct FakeServer {
    pub(crate) world: Shared,
    pub(crate) process: usize,
    pub(crate) side: Side,
    pub(crate) names: Names,
}

/// Which session a call needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// One in the run's database.
    Inside,
    /// One in any database of the server.
    Outside,
}
use Place::{Inside, Outside};

/// A slot, by its name.
#[derive(Clone, Copy)]
enum SlotName {
    Logical(Flow),
    Physical,
}

fn lsn(place: usize) -> Lsn {
    Lsn(place as u64)
}

fn place(lsn: Lsn) -> usize {
    usize::try_from(lsn.0).unwrap()
}

impl World {
    /// The server, where this call can reach what it needs.
    fn reach(&self, call: Call, need: Place) -> Result<&Node, PortError> {
        let node = &self.nodes[call.on.unwrap() as usize];
        if !node.up {
            return Err(call.error(Failure::Transient).because("the server does not answer"));
        }
        let inside = node.allow_connections || node.sessions.contains(&call.process) || self.landing;
        if need == Inside && !inside {
            return Err(call.error(Failure::Refused).because("the database takes no connections"));
        }
        Ok(node)
    }

    /// The same for a write.
    fn reach_mut(&mut self, call: Call, need: Place) -> Result<&mut Node, PortError> {
        let node = self.reach(call, need)?;
        if need == Inside && node.in_recovery {
            return Err(call.error(Failure::Refused).because("the server is in recovery"));
        }
        Ok(self.node(call.on.unwrap()))
    }

    fn is_slot_active(&self, flow: Flow) -> bool {
        self.nodes[flow.publisher().other() as usize].subscriptions[flow as usize].is_some_and(|found| found.connected)
    }
}

fn fence_of(node: &Node) -> Fence {
    match (node.allow_connections, node.triggers_refuse()) {
        (false, _) => Fence::Connections,
        (true, true) if node.fence_closed => Fence::Triggers,
        (true, true) => Fence::Marked,
        (true, false) => Fence::Open,
    }
}

impl FakeServer {
    fn call(&self, name: &'static str, kind: Kind) -> Call {
        Call { process: self.process, name, on: Some(self.side), kind }
    }

    fn flow(&self, name: &str) -> Flow {
        if name == self.names.forward { Flow::Forward } else { Flow::Reverse }
    }

    fn slot_name(&self, name: &str) -> SlotName {
        if name == PHYSICAL_SLOT || name == self.names.standby_slot {
            SlotName::Physical
        } else {
            SlotName::Logical(self.flow(name))
        }
    }

    async fn read<T>(&self, name: &'static str, need: Place, look: impl FnOnce(&Node) -> T) -> Result<T, PortError> {
        let call = self.call(name, Kind::Read);
        self.world.read(call, |world| world.reach(call, need).map(look)).await
    }

    async fn look<T>(&self, name: &'static str, need: Place, odd: T, look: impl FnOnce(&Node) -> T) -> Result<T, PortError> {
        let call = self.call(name, Kind::Look);
        self.world.look(call, |world| world.reach(call, need).map(look), Some(odd)).await
    }

    async fn change<T: Send + 'static>(
        &self,
        name: &'static str,
        need: Place,
        effect: impl FnOnce(&mut Node, u64) -> T + Send + 'static,
    ) -> Result<T, PortError> {
        let call = self.call(name, Kind::Change);
        self.world
            .change(call, move |world, _| {
                let now = world.now;
                world.reach_mut(call, need).map(|node| effect(node, now))
            })
            .await
    }
}

#[async_trait]
impl Server for FakeServer {
    async fn connect(&self) -> Result<(), PortError> {
        let call = self.call("connect", Kind::Read);
        self.world.read(call, |world| world.reach(call, Inside).map(|_| ())).await?;
        let mut world = self.world.lock();
        let sessions = &mut world.node(self.side).sessions;
        if !sessions.contains(&self.process) {
            sessions.push(self.process);
        }
        Ok(())
    }

    async fn identity(&self) -> Result<Identity, PortError> {
        self.read("identity", Outside, |node| Identity {
            system_identifier: if node.is_stranger { 2 } else { 1 },
            in_recovery: node.in_recovery,
            timeline: node.timeline,
        })
        .await
    }

    async fn signature(&self) -> Result<String, PortError> {
        self.read("signature", Outside, |node| node.side.to_string()).await
    }

    async fn clock(&self) -> Result<Timestamp, PortError> {
        self.read("clock", Outside, |_| ()).await?;
        Ok(self.world.lock().true_time())
    }

    async fn access(&self, roles: &[String], _: &str) -> Result<Access, PortError> {
        let roles = roles.to_vec();
        let read = |node: &Node| {
            let known = roles.iter().filter(|_| !node.locks_out).map(|role| RoleAccess {
                name: role.clone(),
                login: true,
                password: None,
                expired: false,
                connections: -1,
                may_connect: true,
                member_of: Vec::new(),
                settings: std::collections::BTreeMap::new(),
            });
            let rule = HbaRule {
                line: Some(1),
                kind: Some("local".to_owned()),
                databases: Some(vec!["all".to_owned()]),
                users: Some(vec!["all".to_owned()]),
                address: None,
                netmask: None,
                method: Some("scram-sha-256".to_owned()),
                error: None,
            };
            Access { tls: false, rules: vec![rule], roles: known.collect() }
        };
        self.read("access", Inside, read).await
    }

    async fn claim(&self) -> Result<Option<String>, PortError> {
        self.read("claim", Inside, |node| node.claimed.then(|| "r0000001".to_owned())).await
    }

    async fn ensure_claimed(&self) -> Result<(), PortError> {
        self.change("ensure_claimed", Inside, |node, now| {
            if !node.claimed {
                (node.claimed, node.fence_closed, node.fence_born) = (true, false, true);
            }
            node.append(now, What::Other);
        })
        .await
    }

    async fn ensure_unclaimed(&self) -> Result<(), PortError> {
        self.change("ensure_unclaimed", Inside, |node, _| {
            (node.claimed, node.marker) = (false, None);
            (node.fence_installed, node.fence_closed, node.fence_born) = (false, false, false);
        })
        .await
    }

    async fn create_restore_point(&self, _: &str) -> Result<Lsn, PortError> {
        let call = self.call("create_restore_point", Kind::Change);
        self.world
            .change(call, move |world, _| {
                let now = world.now;
                let node = world.reach_mut(call, Inside)?;
                node.append(now, What::Other);
                let at = node.log.len();
                node.restore_point.get_or_insert(at);
                Ok(lsn(at))
            })
            .await
    }

    async fn write_marker(&self, value: i64) -> Result<(), PortError> {
        let call = self.call("write_marker", Kind::Change);
        self.world
            .change(call, move |world, _| {
                let now = world.now;
                let node = world.reach_mut(call, Inside)?;
                if !node.claimed {
                    return Err(call.error(Failure::Refused).because("there is no marker table"));
                }
                node.marker = Some(value);
                node.append(now, What::Marker(value));
                Ok(())
            })
            .await
    }

    async fn read_marker(&self) -> Result<Option<i64>, PortError> {
        self.read("read_marker", Inside, |node| node.marker).await
    }

    async fn publication(&self, name: &str) -> Result<Option<Vec<PublishedTable>>, PortError> {
        let flow = self.flow(name);
        self.read("publication", Inside, |node| node.publications[flow as usize].map(|_| Vec::new())).await
    }

    async fn ensure_publication(&self, name: &str, tables: &[PublishedTable]) -> Result<(), PortError> {
        let (flow, narrowed) = (self.flow(name), tables.iter().any(|table| table.columns.is_some()));
        self.change("ensure_publication", Inside, move |node, _| node.publications[flow as usize] = Some(narrowed)).await
    }

    async fn ensure_no_publication(&self, name: &str) -> Result<(), PortError> {
        let flow = self.flow(name);
        self.change("ensure_no_publication", Inside, move |node, _| node.publications[flow as usize] = None).await
    }

    async fn slot(&self, name: &str) -> Result<Option<SlotState>, PortError> {
        let (call, flow) = (self.call("slot", Kind::Read), self.flow(name));
        self.world
            .read(call, |world| {
                let node = world.reach(call, Outside)?;
                Ok(node.slots[flow as usize].map(|at| SlotState {
                    confirmed_flush: lsn(at),
                    active: world.is_slot_active(flow),
                    retained_bytes: (node.log.len() - at.min(node.log.len())) as u64,
                    lost: false,
                    safe_wal_bytes: None,
                }))
            })
            .await
    }

    async fn create_slot(&self, name: &str) -> Result<Lsn, PortError> {
        let (call, flow) = (self.call("create_slot", Kind::Change), self.flow(name));
        self.world
            .change(call, move |world, _| {
                let node = world.reach_mut(call, Inside)?;
                if node.slots[flow as usize].is_some() {
                    return Err(call.error(Failure::Refused).because("it exists already"));
                }
                let at = node.log.len();
                (node.slots[flow as usize], node.slots_at_first[flow as usize]) = (Some(at), at);
                Ok(lsn(at))
            })
            .await
    }

    async fn advance_slot(&self, name: &str, to: Lsn) -> Result<(), PortError> {
        let (call, flow) = (self.call("advance_slot", Kind::Change), self.flow(name));
        self.world
            .change(call, move |world, _| {
                if world.is_slot_active(flow) {
                    return Err(call.error(Failure::Transient).because("the slot is in use"));
                }
                match &mut world.reach_mut(call, Inside)?.slots[flow as usize] {
                    Some(at) => *at = (*at).max(place(to)),
                    None => return Err(call.error(Failure::Refused).because("there is no such slot")),
                }
                Ok(())
            })
            .await
    }

    async fn ensure_no_slot(&self, name: &str) -> Result<(), PortError> {
        let slot = self.slot_name(name);
        self.change("ensure_no_slot", Outside, move |node, _| match slot {
            SlotName::Logical(flow) => node.slots[flow as usize] = None,
            SlotName::Physical => node.physical_slot = false,
        })
        .await
    }

    async fn subscription(&self, name: &str) -> Result<Option<SubscriptionState>, PortError> {
        let flow = self.flow(name);
        self.read("subscription", Inside, |node| {
            node.subscriptions[flow as usize].map(|found| SubscriptionState {
                enabled: found.enabled,
                streaming: found.connected,
                ready: Vec::new(),
                apply_errors: u64::from(found.stuck.is_some()),
                last_error: found.stuck.map(str::to_owned),
            })
        })
        .await
    }

    async fn ensure_subscription(&self, name: &str) -> Result<(), PortError> {
        let flow = self.flow(name);
        self.change("ensure_subscription", Inside, move |node, _| {
            node.subscriptions[flow as usize].get_or_insert_default();
        })
        .await
    }

    async fn set_origin(&self, subscription: &str, to: Lsn) -> Result<(), PortError> {
        let (call, flow) = (self.call("set_origin", Kind::Change), self.flow(subscription));
        self.world
            .change(call, move |world, _| match &mut world.reach_mut(call, Inside)?.subscriptions[flow as usize] {
                Some(found) if !found.enabled => {
                    found.origin = found.origin.max(place(to));
                    Ok(())
                }
                _ => Err(call.error(Failure::Refused).because("there is no such subscription, or it is enabled")),
            })
            .await
    }

    async fn ensure_subscribed(&self, subscription: &str) -> Result<(), PortError> {
        self.enable(subscription, true).await
    }

    async fn ensure_unsubscribed(&self, subscription: &str) -> Result<(), PortError> {
        self.enable(subscription, false).await
    }

    async fn ensure_no_subscription(&self, name: &str) -> Result<(), PortError> {
        let flow = self.flow(name);
        self.change("ensure_no_subscription", Inside, move |node, _| node.subscriptions[flow as usize] = None).await
    }

    async fn ensure_inherited_stopped(&self, subscription: &str) -> Result<(), PortError> {
        assert_eq!(subscription, INHERITED);
        self.change("ensure_inherited_stopped", Inside, |node, _| node.inherited_runs = false).await
    }

    async fn flush_wal(&self) -> Result<Lsn, PortError> {
        let call = self.call("flush_wal", Kind::Change);
        self.world.change(call, move |world, _| Ok(lsn(world.reach(call, Inside)?.log.len()))).await
    }

    async fn wal_lsn(&self) -> Result<Lsn, PortError> {
        self.read("wal_lsn", Outside, |node| lsn(node.log.len())).await
    }

    async fn replay_lsn(&self) -> Result<Lsn, PortError> {
        self.read("replay_lsn", Outside, |node| lsn(node.replayed)).await
    }

    async fn ensure_read_only_default(&self, on: bool) -> Result<(), PortError> {
        self.change("ensure_read_only_default", Outside, move |node, _| node.read_only_default = on).await
    }

    async fn ensure_marked(&self) -> Result<(), PortError> {
        let call = self.call("ensure_marked", Kind::ChangeInParts);
        self.world
            .change(call, move |world, part| {
                let node = world.reach_mut(call, Outside)?;
                if node.side == Side::Blue {
                    world.violated("blue bears the mark");
                } else if part == Part::Whole {
                    node.marked = true;
                }
                Ok(())
            })
            .await
    }

    async fn ensure_unmarked(&self, _: Option<&str>) -> Result<(), PortError> {
        self.change("ensure_unmarked", Outside, |node, _| node.marked = false).await
    }

    async fn setting_under_mark(&self) -> Result<Option<String>, PortError> {
        self.read("setting_under_mark", Outside, |_| None).await
    }

    async fn promote(&self) -> Result<(), PortError> {
        let call = self.call("promote", Kind::Change);
        self.world
            .change(call, move |world, _| {
                world.reach(call, Outside)?;
                let was_standby = world.nodes[Side::Green as usize].in_recovery;
                world.promote_green();
                world.check_born(was_standby);
                Ok(())
            })
            .await
    }

    async fn fork_point(&self) -> Result<ForkPoint, PortError> {
        self.read("fork_point", Outside, |node| ForkPoint { lsn: lsn(node.replayed), timeline: node.timeline, parent: 1 }).await
    }

    async fn fence(&self) -> Result<Fence, PortError> {
        self.read("fence", Outside, fence_of).await
    }

    async fn ensure_fence_installed(&self) -> Result<(), PortError> {
        self.change("ensure_fence_installed", Inside, |node, now| {
            if !node.fence_installed {
                node.append(now, What::Other);
                (node.fence_installed, node.fenced_at) = (true, node.log.len());
            }
        })
        .await
    }

    async fn unfenced_tables(&self) -> Result<Vec<RelationName>, PortError> {
        self.read("unfenced_tables", Inside, |node| {
            let orders = RelationName::new("public", "orders");
            if node.fence_installed { Vec::new() } else { vec![orders] }
        })
        .await
    }

    async fn ensure_fence(&self, fence: Fence) -> Result<(), PortError> {
        let name = match fence {
            Fence::Open => "ensure_fence(open)",
            Fence::Marked => "ensure_fence(marked)",
            Fence::Triggers => "ensure_fence(triggers)",
            Fence::Connections => "ensure_fence(connections)",
        };
        let call = self.call(name, Kind::ChangeInParts);
        self.world.change(call, move |world, part| world.fence(call, fence, part)).await
    }

    async fn fence_damage(&self) -> Result<Vec<String>, PortError> {
        self.read("fence_damage", Outside, |node| {
            let broken = node.allow_connections && (node.fence_damaged || !node.fence_closed);
            broken.then(|| "somebody broke it".to_owned()).into_iter().collect()
        })
        .await
    }

    async fn probe_fence(&self) -> Result<FenceProbe, PortError> {
        let odd = FenceProbe::Leaks { how: "a superuser wrote".to_owned() };
        self.look("probe_fence", Outside, odd, |node| match fence_of(node) {
            _ if node.leaks => FenceProbe::Leaks { how: "somebody wrote".to_owned() },
            Fence::Open => FenceProbe::Leaks { how: "it is open".to_owned() },
            Fence::Marked | Fence::Triggers | Fence::Connections => FenceProbe::Holds,
        })
        .await
    }

    async fn ensure_sole_coordinator(&self) -> Result<(), PortError> {
        let (call, side) = (self.call("ensure_sole_coordinator", Kind::Change), self.side);
        self.world
            .change(call, move |world, _| {
                world.reach(call, Outside)?;
                world.late.retain(|late| late.on != side || late.by > call.process);
                world.node(side).sessions.retain(|kept| *kept >= call.process);
                Ok(())
            })
            .await
    }

    async fn schema_fingerprint(&self) -> Result<Fingerprint, PortError> {
        self.read("schema_fingerprint", Inside, |node| {
            let text = match (node.migrated, node.relaxed) {
                _ if node.drifted => "another",
                (0, false) => BLUE_SCHEMA,
                (0, true) => "relaxed",
                (0b11, _) => GREEN_SCHEMA,
                _ => "half migrated",
            };
            schema(text)
        })
        .await
    }

    async fn has_large_objects(&self) -> Result<bool, PortError> {
        self.read("has_large_objects", Inside, |_| false).await
    }

    async fn ensure_not_null(&self, _: &RelationName, _: &[String], on: bool) -> Result<(), PortError> {
        let call = self.call(if on { "ensure_not_null(on)" } else { "ensure_not_null(off)" }, Kind::Change);
        self.world
            .change(call, move |world, _| {
                let node = world.reach_mut(call, Inside)?;
                if on && node.has_nulls {
                    return Err(call.error(Failure::Refused).because("rows have no value there"));
                }
                node.relaxed = !on;
                Ok(())
            })
            .await
    }

    async fn ensure_sync_triggers(&self, _: &[SyncTrigger], always: bool) -> Result<bool, PortError> {
        self.change("ensure_sync_triggers", Inside, move |node, _| {
            let is_there = node.migrated == 0b11;
            node.fires = always && is_there;
            is_there
        })
        .await
    }

    async fn analyze(&self, _: &RelationName) -> Result<(), PortError> {
        self.change("analyze", Inside, |_, _| {}).await
    }

    async fn warm(&self, _: &[RelationName], _: Progress<'_>) -> Result<(), PortError> {
        self.change("warm", Inside, |_, _| {}).await
    }

    async fn sequences(&self) -> Result<Vec<SequenceValue>, PortError> {
        let sequence = RelationName::new("public", "orders_id_seq");
        self.read("sequences", Inside, |node| {
            vec![SequenceValue {
                place: if node.hides_sequences { SequencePlace::Unreadable } else { SequencePlace::Gave(node.sequence) },
                sequence,
                increment: 1,
                min: 1,
                max: i64::MAX,
                cycle: false,
            }]
        })
        .await
    }

    async fn set_sequences(&self, values: &[SequenceValue], margin: u64) -> Result<(), PortError> {
        let at_least = match values[0].place {
            SequencePlace::Gave(last) => last + margin.cast_signed(),
            _ => 0,
        };
        self.change("set_sequences", Inside, move |node, _| {
            if !node.has_stubborn_sequences {
                node.sequence = node.sequence.max(at_least);
            }
        })
        .await
    }

    async fn long_transactions(&self, _: Duration) -> Result<Vec<LongTransaction>, PortError> {
        let long = LongTransaction { pid: 1, age: Duration::from_mins(1), who: "somebody".to_owned() };
        self.look("long_transactions", Outside, vec![long], |_| Vec::new()).await
    }

    async fn cancel_transactions(&self, _: &[i32]) -> Result<(), PortError> {
        self.change("cancel_transactions", Outside, |_, _| {}).await
    }

    /// Its applications come by the route, whose sessions it does not number.
    async fn client_sessions(&self) -> Result<Vec<ClientSession>, PortError> {
        self.read("client_sessions", Outside, |_| Vec::new()).await
    }

    async fn prepared_transactions(&self) -> Result<Vec<String>, PortError> {
        self.look("prepared_transactions", Outside, vec!["one".to_owned()], |node| {
            node.has_prepared.then(|| "one".to_owned()).into_iter().collect()
        })
        .await
    }

    async fn ensure_history_without(&self, _: &[String]) -> Result<(), PortError> {
        self.change("ensure_history_without", Inside, |_, _| {}).await
    }
}

impl FakeServer {
    async fn enable(&self, subscription: &str, on: bool) -> Result<(), PortError> {
        let (call, flow) =
            (self.call(if on { "ensure_subscribed" } else { "ensure_unsubscribed" }, Kind::Change), self.flow(subscription));
        self.world
            .change(call, move |world, _| match &mut world.reach_mut(call, Inside)?.subscriptions[flow as usize] {
                Some(found) => {
                    found.enabled = on;
                    found.connected &= on;
                    Ok(())
                }
                None => Err(call.error(Failure::Refused).because("there is no such subscription")),
            })
            .await
    }
}

impl World {
    fn fence(&mut self, call: Call, fence: Fence, part: Part) -> Result<(), PortError> {
        let inside = self.reach(call, Inside).is_ok();
        let node = self.reach_mut(call, Outside)?;
        if node.in_recovery {
            return Err(call.error(Failure::Refused).because("the server is in recovery"));
        }
        match fence {
            Fence::Open => {
                node.allow_connections = true;
                if part == Part::Whole {
                    (node.fence_closed, node.fence_born) = (false, false);
                }
            }
            Fence::Marked => {}
            Fence::Connections => {
                if !inside && node.fence_installed && !node.triggers_refuse() {
                    return Err(call.error(Failure::Refused).because("the triggers cannot be closed from outside"));
                }
                (node.allow_connections, node.open_transaction) = (false, None);
                if part == Part::Whole && inside {
                    node.fence_closed = node.fence_installed;
                }
            }
            Fence::Triggers if inside => {
                let wakes = node.inherited_runs && !node.allow_connections;
                node.fence_installed = true;
                if part == Part::Whole {
                    (node.fence_closed, node.allow_connections) = (true, true);
                }
                if wakes {
                    self.violated("green takes connections again before what it inherited was stopped");
                }
            }
            // Nobody can install or close anything inside before connections are allowed.
            Fence::Triggers => {
                node.allow_connections = true;
                self.check_effect();
                let node = self.node(call.on.unwrap());
                if part == Part::Whole {
                    (node.fence_installed, node.fence_closed) = (true, true);
                }
            }
        }
        Ok(())
    }
}
