//! Somebody else who decides which server is the primary. It takes a promoted green for a fault, and mends that: by demoting
//! it, also while it serves.

use super::{Look, fine, needs_accept, refused};
use crate::plan::figures::few;
use crate::plan::{Finding, ServerSurvey};
use crate::word::Side;

/// How a manager shows itself. Names are the beginnings of them.
struct Manager {
    name: &'static str,
    code: &'static str,
    /// Of sessions, standbys, and slots in use: it is at work now.
    at_work: &'static [&'static str],
    /// Of files that set something, or that it keeps beside the data.
    files: &'static [&'static str],
    /// Of slots, roles, extensions and libraries.
    traces: &'static [&'static str],
    /// How to end its work for the time of a run.
    stop: &'static str,
}

const MANAGERS: &[Manager] = &[
    Manager {
        name: "Patroni",
        code: "patroni",
        at_work: &["Patroni"],
        files: &["patroni.", "postgresql.base.conf"],
        traces: &[],
        stop: "`patronictl pause --wait`, then stop Patroni itself on every node (`systemctl stop patroni`): paused, it leaves \
               PostgreSQL running",
    },
    Manager {
        name: "repmgr",
        code: "repmgr",
        at_work: &["repmgr"],
        files: &["repmgr"],
        traces: &["repmgr"],
        stop: "`repmgr service pause`, then stop repmgrd on every node",
    },
    Manager {
        name: "pg_auto_failover",
        code: "pg_auto_failover",
        at_work: &["pg_auto_failover", "pgautofailover_"],
        files: &["postgresql-auto-failover"],
        traces: &["pgautofailover"],
        stop: "`pg_autoctl enable maintenance` on green, then stop pg_autoctl on both nodes without stopping PostgreSQL, or drop both \
               nodes with `pg_autoctl drop node`",
    },
    Manager {
        name: "stolon",
        code: "stolon",
        at_work: &["stolon"],
        files: &["stolon"],
        traces: &["stolon"],
        stop: "stop the sentinels and keepers of the cluster, and start PostgreSQL by hand",
    },
    Manager {
        name: "CloudNativePG",
        code: "cloudnativepg",
        at_work: &["cnpg", "streaming_replica"],
        files: &[],
        traces: &["_cnpg_", "streaming_replica", "cnpg_"],
        stop: "use servers that the operator does not manage: it cannot be told to leave a promoted replica as it is",
    },
    Manager {
        name: "EDB Failover Manager",
        code: "efm",
        at_work: &["efm", "EFM", "edb-efm"],
        files: &["efm."],
        traces: &[],
        stop: "`efm stop-cluster NAME`, which leaves the servers running",
    },
    Manager {
        name: "Pacemaker",
        code: "pacemaker",
        at_work: &["pgsqlms"],
        files: &["rep_mode.conf"],
        traces: &[],
        stop: "`pcs resource unmanage RESOURCE`",
    },
    Manager {
        name: "pg_keeper",
        code: "pg_keeper",
        at_work: &["pg_keeper"],
        files: &["pg_keeper"],
        traces: &["pg_keeper"],
        stop: "take `pg_keeper` out of `shared_preload_libraries` and restart both servers",
    },
];

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = look.servers().into_iter().flat_map(|(side, server)| of_server(side, server)).collect();
    if findings.is_empty() {
        let names: Vec<&str> = MANAGERS.iter().map(|manager| manager.name).collect();
        let seen = format!("Nothing shows a manager of high availability ({}) on either server.", names.join(", "));
        findings.push(fine("ha-manager", seen));
    }
    findings
}

fn of_server(side: Side, server: &ServerSurvey) -> Vec<Finding> {
    let mut findings: Vec<Finding> = MANAGERS.iter().filter_map(|manager| of_manager(side, server, manager)).collect();
    if server.managers.files.is_none() {
        let seen = format!(
            "The files of {side} cannot be read, so that a manager of high availability that shows itself only there is not known."
        );
        let consequence = "such a manager would demote green after its promotion, also while it serves";
        findings.push(needs_accept(format!("ha-manager-unknown:{side}"), seen, consequence));
    }
    findings
}

fn of_manager(side: Side, server: &ServerSurvey, manager: &Manager) -> Option<Finding> {
    let code = format!("ha-manager:{}:{side}", manager.code);
    let (name, stop) = (manager.name, manager.stop);
    let at_work = at_work(server, manager);
    if !at_work.is_empty() {
        let seen = format!(
            "{name} manages {side} ({}). It takes the promotion of green for a fault and demotes green, also while green serves.",
            few(&at_work)
        );
        let remedy = format!(
            "{name} is not supported yet. For the time of the run take both servers from it: {stop}; then make the server that serves \
             the first of a new cluster. Or use a green outside of the cluster that follows a blue outside of it"
        );
        return Some(refused(code, seen, remedy));
    }
    let traces = traces(server, manager);
    if traces.is_empty() {
        return None;
    }
    let seen = format!("{side} bears the marks of {name} ({}), and no session of it is there now.", few(&traces));
    let consequence = format!(
        "if {name} still manages this server it demotes green after its promotion, also while it serves. Be sure that it does not: {stop}"
    );
    Some(needs_accept(code, crate::plan::figures::capital(&seen), consequence))
}

fn at_work(server: &ServerSurvey, manager: &Manager) -> Vec<String> {
    let begins = |name: &str| manager.at_work.iter().any(|beginning| name.starts_with(beginning));
    let mut signs = Vec::new();
    signs.extend(server.managers.sessions.iter().filter(|name| begins(name)).map(|name| format!("session `{name}`")));
    let standbys = server.standbys.iter().map(|standby| &standby.application_name);
    signs.extend(standbys.filter(|name| begins(name)).map(|name| format!("standby `{name}`")));
    let slots = server.slots.iter().filter(|slot| slot.active && is_trace(manager, &slot.name));
    signs.extend(slots.map(|slot| format!("slot `{}` in use", slot.name)));
    if server.in_recovery {
        let upstream = server.upstream.as_deref().unwrap_or_default();
        let own = [server.upstream_name.as_deref().unwrap_or_default(), server.upstream_slot.as_deref().unwrap_or_default()];
        let by_user = manager.at_work.iter().any(|name| upstream.contains(&format!("user={name}")));
        if by_user || own.iter().any(|name| begins(name) || is_trace(manager, name)) {
            signs.push(format!("it streams by `{upstream}`"));
        }
    }
    if manager.code == "cloudnativepg" && server.archive_command.contains("/controller/manager") {
        signs.push("`archive_command` is the operator's".to_owned());
    }
    signs
}

fn traces(server: &ServerSurvey, manager: &Manager) -> Vec<String> {
    let mut signs = Vec::new();
    let slots = server.slots.iter().map(|slot| &slot.name);
    signs.extend(slots.filter(|name| is_trace(manager, name)).map(|name| format!("slot `{name}`")));
    let roles = server.managers.roles.iter();
    signs.extend(roles.filter(|name| is_trace(manager, name)).map(|name| format!("role `{name}`")));
    let extensions = server.managers.extensions.iter();
    signs.extend(extensions.filter(|name| is_trace(manager, name)).map(|name| format!("extension `{name}`")));
    let libraries = server.shared_preload_libraries.split(',').map(str::trim);
    signs.extend(libraries.filter(|name| is_trace(manager, name)).map(|name| format!("`{name}` in `shared_preload_libraries`")));
    if let Some(files) = &server.managers.files {
        let is_its = |name: &&String| manager.files.iter().any(|beginning| name.starts_with(beginning));
        signs.extend(files.names.iter().filter(is_its).map(|name| format!("file `{name}`")));
        let both = ["custom.conf", "override.conf"].iter().all(|name| files.names.iter().any(|file| file == name));
        if manager.code == "cloudnativepg" && both {
            signs.push("files `custom.conf` and `override.conf`".to_owned());
        }
        if manager.code == "patroni" && files.head.contains("overwritten by Patroni") {
            signs.push("the first line of its configuration".to_owned());
        }
    }
    if manager.code == "patroni" && server.managers.command_line {
        signs.push("`cluster_name` on its command line".to_owned());
    }
    signs
}

fn is_trace(manager: &Manager, name: &str) -> bool {
    manager.traces.iter().any(|beginning| name.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers};
    use crate::plan::{ManagerFiles, SlotSurvey};

    fn session(name: &str) -> World {
        World::with(|w| w.green().managers.sessions.push(name.to_owned()))
    }

    fn file(name: &str) -> World {
        World::with(|w| w.blue().managers.files.as_mut().unwrap().names.push(name.to_owned()))
    }

    #[test]
    fn a_manager_that_is_at_work_on_either_server_is_refused() {
        assert_answers(&World::new(), "ha-manager", "fine");
        for (name, code) in [
            ("Patroni", "ha-manager:patroni:green"),
            ("Patroni restapi", "ha-manager:patroni:green"),
            ("repmgrd", "ha-manager:repmgr:green"),
            ("pg_auto_failover monitor health check worker", "ha-manager:pg_auto_failover:green"),
            ("cnpg_metrics_exporter", "ha-manager:cloudnativepg:green"),
            ("stolon_1a2b", "ha-manager:stolon:green"),
        ] {
            assert_answers(&session(name), code, "refused");
            assert_answers(&session(name), "ha-manager", "none");
        }
        let archives = World::with(|w| w.blue().archive_command = "/controller/manager wal-archive %p".to_owned());
        assert_answers(&archives, "ha-manager:cloudnativepg:blue", "refused");
        let streams = World::with(|w| w.green().upstream = Some("host=db1 user=streaming_replica".to_owned()));
        assert_answers(&streams, "ha-manager:cloudnativepg:green", "refused");
        let by_name = World::with(|w| w.blue().standbys[0].application_name = "pgautofailover_standby_2".to_owned());
        assert_answers(&by_name, "ha-manager:pg_auto_failover:blue", "refused");
    }

    #[test]
    fn the_marks_of_a_manager_need_a_word() {
        assert_answers(&file("patroni.dynamic.json"), "ha-manager:patroni:blue", "needs_accept");
        assert_answers(&file("postgresql-auto-failover.conf"), "ha-manager:pg_auto_failover:blue", "needs_accept");
        assert_answers(&file("custom.conf"), "ha-manager:cloudnativepg:blue", "none");
        let head = "# Do not edit this file manually!\n# It will be overwritten by Patroni!";
        let overwritten = World::with(|w| {
            w.blue().managers.files = Some(ManagerFiles { names: Vec::new(), head: head.to_owned() });
        });
        assert_answers(&overwritten, "ha-manager:patroni:blue", "needs_accept");
        let started = World::with(|w| w.green().managers.command_line = true);
        assert_answers(&started, "ha-manager:patroni:green", "needs_accept");
        let preloaded = World::with(|w| w.blue().shared_preload_libraries = "pg_stat_statements, repmgr".to_owned());
        assert_answers(&preloaded, "ha-manager:repmgr:blue", "needs_accept");
        let slot =
            SlotSurvey { name: "repmgr_slot_2".to_owned(), logical: false, active: false, database: None, retained_bytes: 0 };
        let kept = World::with(|w| w.blue().slots.push(slot.clone()));
        assert_answers(&kept, "ha-manager:repmgr:blue", "needs_accept");
        let used = World::with(|w| w.blue().slots.push(SlotSurvey { active: true, ..slot }));
        assert_answers(&used, "ha-manager:repmgr:blue", "refused");
    }

    #[test]
    fn files_that_cannot_be_read_are_unknown_and_not_good() {
        let unread = World::with(|w| w.blue().managers.files = None);
        assert_answers(&unread, "ha-manager-unknown:blue", "needs_accept");
        assert_answers(&unread, "ha-manager", "none");
    }
}
