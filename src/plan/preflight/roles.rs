//! Which server is which: blue the primary, green its streaming standby, both free for a run and open to our role.

use super::restored::green_is_restored;
use super::{Look, fine, handled, needs_accept, refused};
use crate::plan::{Finding, GreenSurvey, SCHEMA, ServerSurvey, StepName, is_of_a_run};
use crate::word::Side;

const REBUILD: &str =
    "rebuild green as a physical standby of blue (`pg_basebackup -R`), or let the run make one with `green.create`";

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    if look.blue().claimed_by.is_some() {
        // What its run made of green is in nobody's way but as long as it lasts: nothing else is to be done first.
        let rights = look.servers().into_iter().map(|(side, server)| rights(side, server));
        return [claim(look.blue()), blue_is_primary(look.blue())].into_iter().chain(rights).collect();
    }
    let mut findings = vec![blue_is_primary(look.blue())];
    match &look.survey.green {
        GreenSurvey::Standby(green) if look.is_restored() => findings.extend(green_is_restored(look.blue(), green)),
        GreenSurvey::Standby(green) => findings.extend(green_is_standby(look.blue(), green)),
        GreenSurvey::ToBeMade { .. } if look.is_in_place() => {}
        GreenSurvey::ToBeMade { problems } => findings.extend(green_can_be_made(look.blue(), problems)),
    }
    for (side, server) in look.servers() {
        findings.push(rights(side, server));
        findings.extend(leftovers(side, server));
        findings.extend(read_only(side, server));
        findings.extend(alter_system(side, server));
    }
    findings.push(claim(look.blue()));
    findings.extend(look.servers().into_iter().filter_map(|(side, server)| role_name(side, server)));
    findings
}

fn blue_is_primary(blue: &ServerSurvey) -> Finding {
    if blue.in_recovery {
        refused("blue-primary", "Blue is itself a standby.", "name the primary in `blue.url`")
    } else {
        fine("blue-primary", format!("Blue is a primary, on timeline {}.", blue.timeline))
    }
}

fn green_is_standby(blue: &ServerSurvey, green: &ServerSurvey) -> Vec<Finding> {
    if blue.system_identifier != green.system_identifier {
        let seen = format!(
            "Green is not a standby of this blue: its system identifier is {}, blue's is {}.",
            green.system_identifier, blue.system_identifier
        );
        return vec![refused("same-cluster", seen, REBUILD)];
    }
    if !green.in_recovery {
        let seen = "Green is not in recovery: it was promoted already, or `green.url` names blue itself.";
        return vec![refused("green-standby", seen, REBUILD)];
    }
    let mut findings = vec![fine("same-cluster", format!("Both have system identifier {}.", blue.system_identifier))];
    if green.database != blue.database {
        let seen = format!("`blue.url` names database `{}`, `green.url` names `{}`.", blue.database, green.database);
        findings.push(refused("same-database", seen, "name one database in both"));
    }
    if green.streaming {
        findings.push(fine("green-streaming", format!("Green is in recovery and streams ({}).", upstream(green))));
        findings.extend(follows_blue_directly(blue, green));
    } else {
        let seen = format!("Green is in recovery and does not stream ({}).", upstream(green));
        findings.push(refused("green-streaming", seen, "see green's log for why its WAL receiver is not connected"));
    }
    if green.replay_paused {
        findings.push(refused("replay-paused", "Green's replay is paused.", "`SELECT pg_wal_replay_resume()` on green"));
    }
    let delay = green.setting("recovery_min_apply_delay");
    if !["", "0"].contains(&delay) {
        let remedy = "set `recovery_min_apply_delay` to 0 on green and reload it";
        findings.push(refused("apply-delay", format!("Green replays with a delay of {delay} ms on purpose."), remedy));
    }
    findings
}

fn upstream(green: &ServerSurvey) -> &str {
    green.upstream.as_deref().filter(|text| !text.is_empty()).unwrap_or("its upstream is not visible")
}

/// Green's receiver must be one of blue's senders: what another standby passes on comes late, and ends with that standby.
fn follows_blue_directly(blue: &ServerSurvey, green: &ServerSurvey) -> Option<Finding> {
    let by_slot = green.upstream_slot.is_some() && blue.standbys.iter().any(|standby| standby.slot == green.upstream_slot);
    let by_name = blue.standbys.iter().any(|standby| Some(&standby.application_name) == green.upstream_name.as_ref());
    if by_slot || by_name {
        return None;
    }
    let seen = format!("Blue has no sender for green ({}), which may follow another standby.", upstream(green));
    let consequence = "attaching takes as long as that standby is behind, and fails when it stops";
    Some(needs_accept("green-upstream", seen, consequence))
}

fn green_can_be_made(blue: &ServerSurvey, problems: &[String]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = problems
        .iter()
        .map(|problem| {
            refused("create-standby", format!("Green cannot be made: {problem}."), "see `green.create` in the playbook")
        })
        .collect();
    if !blue.tablespaces.is_empty() {
        let seen =
            format!("Blue has tablespaces: {}. A copy on one machine would use the same folders.", blue.tablespaces.join(", "));
        findings.push(refused("tablespaces", seen, "make the standby by hand with `pg_basebackup --tablespace-mapping`"));
    }
    if findings.is_empty() {
        let how = "made by `pg_basebackup` and started as blue's standby";
        findings.push(handled("create-standby", "Green is to be made by the run.", StepName::CreateStandby, how));
    }
    findings
}

fn rights(side: Side, server: &ServerSurvey) -> Finding {
    let code = format!("superuser:{side}");
    if server.superuser {
        return fine(code, format!("`{}` is a superuser on {side}.", server.user));
    }
    let seen = format!(
        "`{}` is not a superuser on {side}. Moving a subscription's origin, fencing every table whoever owns it, ending anybody's \
         session and promoting need one.",
        server.user
    );
    refused(code, seen, "connect as a superuser; a managed server that gives none cannot be used yet")
}

/// `"$user"` stands first in PostgreSQL's own search path.
fn role_name(side: Side, server: &ServerSurvey) -> Option<Finding> {
    (server.user == SCHEMA).then(|| {
        let seen = format!(
            "The role on {side} is named `{SCHEMA}`, as the schema that the run makes: what a migration makes without naming a \
             schema would be made there, and removed with it."
        );
        refused(
            format!("role-name:{side}"),
            seen,
            format!("use a superuser with another name: ALTER ROLE {SCHEMA} RENAME TO ..."),
        )
    })
}

fn claim(blue: &ServerSurvey) -> Finding {
    match &blue.claimed_by {
        None => fine("claimed", "No run holds blue."),
        Some(run) => {
            let remedy = format!(
                "`greenlight run {run}` goes on with that run, `greenlight finish {run}` ends it, `greenlight abandon {run}` takes it \
                 back; if its journal is lost, `greenlight sweep` lists what it left"
            );
            refused("claimed", format!("Blue is part of run {run}, which is not over."), remedy)
        }
    }
}

/// What a lost run left. A subscription or publication on green is blue's own, copied.
fn leftovers(side: Side, server: &ServerSurvey) -> Vec<Finding> {
    if server.claimed_by.is_some() {
        return Vec::new();
    }
    let slots = server.slots.iter().map(|slot| ("slot", &slot.name));
    let subscriptions = server.subscriptions.iter().map(|subscription| ("subscription", &subscription.name));
    let publications = server.publications.iter().map(|publication| ("publication", publication));
    let in_catalogue = subscriptions.chain(publications).filter(|_| side == Side::Blue);
    let ours = slots.chain(in_catalogue).filter(|(_, name)| is_of_a_run(name));
    ours.map(|(kind, name)| {
        let seen = format!("A run that is no longer there left {kind} `{name}` on {side}.");
        refused(format!("leftovers:{name}"), seen, "look at it and remove it with `greenlight sweep`")
    })
    .collect()
}

fn read_only(side: Side, server: &ServerSurvey) -> Option<Finding> {
    if server.setting("default_transaction_read_only") != "on" {
        return None;
    }
    let seen = format!("`default_transaction_read_only` is on for {side}.");
    Some(match side {
        Side::Green => handled("read-only:green", seen, StepName::AttachGreen, "set for the promotion and taken away after it"),
        Side::Blue => refused(
            "read-only:blue",
            seen,
            "find out who fenced blue; then `ALTER SYSTEM RESET default_transaction_read_only` and reload it",
        ),
    })
}

/// A run sets and resets settings of the whole server, which 17 and later can forbid.
fn alter_system(side: Side, server: &ServerSurvey) -> Option<Finding> {
    (server.setting("allow_alter_system") == "off").then(|| {
        refused(
            format!("alter-system:{side}"),
            format!("`allow_alter_system` is off on {side}: no run could set what it must."),
            "set `allow_alter_system = on` in that server's configuration and reload it, for as long as a run lasts",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers};
    use crate::plan::{GreenSurvey, SlotSurvey, StandbySurvey};

    #[test]
    fn each_server_must_be_what_the_playbook_takes_it_for() {
        let good = World::new();
        for code in ["blue-primary", "same-cluster", "green-streaming", "superuser:blue", "superuser:green", "claimed"] {
            assert_answers(&good, code, "fine");
        }
        for code in ["same-database", "green-standby", "replay-paused", "apply-delay", "green-upstream", "read-only:blue"] {
            assert_answers(&good, code, "none");
        }
        assert_answers(&World::with(|w| w.blue().in_recovery = true), "blue-primary", "refused");
        assert_answers(&World::with(|w| w.green().system_identifier += 1), "same-cluster", "refused");
        assert_answers(&World::with(|w| w.green().in_recovery = false), "green-standby", "refused");
        assert_answers(&World::with(|w| w.green().database = "other".to_owned()), "same-database", "refused");
        assert_answers(&World::with(|w| w.green().streaming = false), "green-streaming", "refused");
        assert_answers(&World::with(|w| w.green().replay_paused = true), "replay-paused", "refused");
        assert_answers(&World::with(|w| w.green().set("recovery_min_apply_delay", "5000")), "apply-delay", "refused");
        assert_answers(&World::with(|w| w.blue().superuser = false), "superuser:blue", "refused");
        assert_answers(&World::with(|w| w.green().superuser = false), "superuser:green", "refused");
        let forbid = |w: &mut World| drop(w.green().settings.insert("allow_alter_system".to_owned(), "off".to_owned()));
        assert_answers(&World::with(forbid), "alter-system:green", "refused");
        assert_answers(&World::with(|w| w.blue().user = "greenlight".to_owned()), "role-name:blue", "refused");
        assert_answers(&World::with(|w| w.blue().claimed_by = Some("r1a2b3c4".to_owned())), "claimed", "refused");
        assert_answers(&World::with(|w| w.blue().set("default_transaction_read_only", "on")), "read-only:blue", "refused");
        assert_answers(&World::with(|w| w.green().set("default_transaction_read_only", "on")), "read-only:green", "handled");
    }

    #[test]
    fn a_green_that_blue_does_not_feed_itself_needs_a_word() {
        assert_answers(&World::with(|w| w.blue().standbys.clear()), "green-upstream", "needs_accept");
        let by_name = |w: &mut World| {
            w.green().upstream_slot = None;
            w.blue().standbys = vec![StandbySurvey {
                application_name: "green".to_owned(),
                slot: None,
                client_addr: None,
                state: "streaming".to_owned(),
                sync_state: "async".to_owned(),
            }];
        };
        assert_answers(&World::with(by_name), "green-upstream", "none");
    }

    #[test]
    fn what_a_lost_run_left_is_named() {
        let slot = |w: &mut World| {
            w.blue().slots.push(SlotSurvey {
                name: "greenlight_rlost123_fwd".to_owned(),
                logical: true,
                active: false,
                database: Some("shop".to_owned()),
                retained_bytes: 1,
            });
        };
        assert_answers(&World::with(slot), "leftovers:greenlight_rlost123_fwd", "refused");
        assert_answers(&World::new(), "leftovers:greenlight_rlost123_fwd", "none");
        // The log of a store, which belongs to no run.
        let store = |w: &mut World| {
            let name = "greenlight_wal_shop".to_owned();
            w.blue().slots.push(SlotSurvey { name, logical: false, active: true, database: None, retained_bytes: 0 });
        };
        assert_answers(&World::with(store), "leftovers:greenlight_wal_shop", "none");
    }

    #[test]
    fn a_green_that_cannot_be_made_is_refused_with_the_reason() {
        let to_be_made = |problems: &[&str]| {
            let problems = problems.iter().map(|problem| (*problem).to_owned()).collect();
            World::with(|w| w.survey.green = GreenSurvey::ToBeMade { problems })
        };
        assert_answers(&to_be_made(&[]), "create-standby", "handled");
        assert_answers(&to_be_made(&["the folder is not empty"]), "create-standby", "refused");
        let mut world = to_be_made(&[]);
        world.blue().tablespaces = vec!["fast".to_owned()];
        assert_answers(&world, "tablespaces", "refused");
        assert_answers(&World::new(), "tablespaces", "none");
    }
}
