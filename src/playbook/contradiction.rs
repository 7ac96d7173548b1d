//! What each key for itself allows and all together cannot be: servers that are one, names that stand twice, hours that
//! never come. Found in the tree, so that they are said together with every other problem.

use super::check::Checker;
use super::problem::{Flaw, quoted};
use super::reference::read_url;
use super::tree::Node;
use crate::plan::Strategy;
use crate::word::Endpoint;

/// Looks for all of them.
pub(super) fn find(root: &Node, checker: &mut Checker<'_>) {
    servers(root, checker);
    shadow(root, checker);
    routes(root, checker);
    validation(root, checker);
    hours(root, checker);
    snapshot(root, &["snapshot"], checker);
    snapshot(root, &["green", "snapshot"], checker);
    archives(root, checker);
    strategy(root, checker);
    lag(root, checker);
    let accepted = root.at(&["accept"]).map_or(&[][..], Node::items);
    twice(accepted.iter(), "is accepted twice", checker);
}

fn servers(root: &Node, checker: &mut Checker<'_>) {
    let blue = endpoint(root.at(&["blue", "url"]), checker);
    let green = endpoint(root.at(&["green", "url"]), checker);
    if let (Some((_, blue)), Some((node, green))) = (&blue, &green) {
        if same_server(blue, green) {
            let flaw =
                Flaw::new("`green.url`: green is the same server as blue").help("green is another server: a standby of blue");
            checker.push(flaw, &node.span);
        }
        if blue.database != green.database {
            let flaw = Flaw::new(format!("`green.url`: green's database {} is not blue's", quoted(&green.database)));
            checker.push(flaw.help(format!("a standby has the databases of blue: write {}", quoted(&blue.database))), &node.span);
        }
    }
    for (side, own) in [("blue", &blue), ("green", &green)] {
        let peer = endpoint(root.at(&[side, "peer_url"]), checker);
        if let (Some((_, own)), Some((node, peer))) = (own, peer)
            && own.database != peer.database
        {
            let flaw =
                Flaw::new(format!("`{side}.peer_url`: the database {} is not that of `{side}.url`", quoted(&peer.database)));
            checker.push(flaw.help(format!("write {}", quoted(&own.database))), &node.span);
        }
    }
    let port = root.at(&["green", "create", "port"]);
    if let (Some(port), Some((_, green))) = (port, green)
        && port.text().and_then(|text| text.parse::<u16>().ok()).is_some_and(|port| port != green.port)
    {
        let flaw = Flaw::new("`green.create.port` is not the port of `green.url`");
        checker.push(flaw.help(format!("write `{}`, or change the URL", green.port)), &port.span);
    }
}

/// What is tried in the shadow is tried for real: it must not be a server of the run.
fn shadow(root: &Node, checker: &mut Checker<'_>) {
    let Some((node, shadow)) = endpoint(root.at(&["shadow"]), checker) else { return };
    for side in ["blue", "green"] {
        if endpoint(root.at(&[side, "url"]), checker).is_some_and(|(_, server)| same_server(&server, &shadow)) {
            let flaw = Flaw::new(format!("`shadow`: the shadow is the same server as {side}"));
            checker.push(flaw.help("name a scratch server whose databases may come and go, or remove the key"), &node.span);
        }
    }
}

fn routes(root: &Node, checker: &mut Checker<'_>) {
    let routes = root.at(&["routes"]).map_or(&[][..], Node::items);
    let routes: Vec<&Node> = routes.iter().filter_map(|route| route.at(&["pgbouncer"])).collect();
    twice(routes.iter().filter_map(|route| route.at(&["name"])), "is the name of two routes", checker);
    let mut moved: Vec<(String, u16, &str)> = Vec::new();
    for route in routes {
        let database = route.at(&["database"]);
        if let Some((node, admin)) = endpoint(route.at(&["admin"]), checker) {
            if admin.database != "pgbouncer" {
                let flaw = Flaw::new(format!("`routes.pgbouncer.admin`: {} is not the admin console", quoted(&admin.database)));
                checker.push(flaw.help("the URL of PgBouncer's admin console ends in `/pgbouncer`"), &node.span);
            }
            if let Some((node, name)) = database.and_then(|node| node.text().map(|name| (node, name))) {
                let target = (host_of(&admin), admin.port, name);
                if moved.contains(&target) {
                    let flaw = Flaw::new(format!("the database {} of this PgBouncer stands in two routes", quoted(name)));
                    checker.push(flaw.help("keep one of the two"), &node.span);
                }
                moved.push(target);
            }
        }
        if let (Some((node, probe)), Some(name)) = (endpoint(route.at(&["probe"]), checker), database.and_then(Node::text))
            && probe.database != name
        {
            let flaw =
                Flaw::new(format!("`routes.pgbouncer.probe`: {} is not the database of this route", quoted(&probe.database)));
            checker.push(flaw.help(format!("write {}: the probe goes the way that applications go", quoted(name))), &node.span);
        }
    }
}

fn validation(root: &Node, checker: &mut Checker<'_>) {
    let excluded = root.at(&["validate", "exclude"]).map_or(&[][..], Node::items);
    twice(excluded.iter(), "is excluded twice", checker);
    let rows_off = root.at(&["validate", "rows"]).is_some_and(|rows| rows.text() == Some("false"));
    if let (true, Some(entry)) = (rows_off, root.at(&["validate"]).and_then(|validate| validate.entry("exclude"))) {
        let flaw = Flaw::new("`validate.exclude` excludes tables from a comparison that `rows: false` turns off");
        checker.push(flaw.help("remove one of the two"), &entry.key_span);
    }
    let assertions = root.at(&["validate", "assertions"]).map_or(&[][..], Node::items);
    twice(assertions.iter().filter_map(|assertion| assertion.at(&["name"])), "is the name of two assertions", checker);
}

fn hours(root: &Node, checker: &mut Checker<'_>) {
    for gate in ["before_migrate", "before_window"] {
        let Some(hours) = root.at(&["gates", gate, "hours"]) else { continue };
        let (from, to) = (hours.at(&["from"]), hours.at(&["to"]));
        if let (Some(from), Some(to)) = (from.and_then(Node::text), to)
            && to.text() == Some(from)
        {
            let flaw = Flaw::new(format!("`gates.{gate}.hours`: they end when they begin"));
            checker.push(
                flaw.help("write a later `to`; an earlier one reaches past midnight; without `hours` the gate is always open"),
                &to.span,
            );
        }
        twice(hours.at(&["days"]).map_or(&[][..], Node::items).iter(), "stands here twice", checker);
    }
}

/// Two timelines in one archive would lead a recovery to the latest astray.
fn archives(root: &Node, checker: &mut Checker<'_>) {
    for key in ["dir", "stanza"] {
        let of_blue = root.at(&["snapshot", key]).and_then(Node::text);
        let of_green = root.at(&["green", "snapshot", key]);
        if let (Some(of_blue), Some(node)) = (of_blue, of_green)
            && node.text() == Some(of_blue)
        {
            let flaw = Flaw::new(format!("`green.snapshot.{key}` is that of blue's backups"));
            checker
                .push(flaw.help("give green an archive of its own: after its promotion it writes another timeline"), &node.span);
        }
    }
}

/// What is for one store only.
fn snapshot(root: &Node, path: &[&str], checker: &mut Checker<'_>) {
    let Some(section) = root.at(path) else { return };
    let Some(store) = section.at(&["store"]).and_then(Node::text) else { return };
    let path = path.join(".");
    let others: &[&str] = match store {
        "basebackup" => &["stanza", "config"],
        "pgbackrest" => &["wal"],
        _ => &[],
    };
    for key in others {
        if let Some(entry) = section.entry(key) {
            let flaw = Flaw::new(format!("`{path}.{key}` is not for the store `{store}`")).help("remove it");
            checker.push(flaw, &entry.key_span);
        }
    }
    if store == "pgbackrest" && section.entry("stanza").is_none() {
        let flaw = Flaw::new(format!("`{path}.stanza` is missing")).help("write the name of pgBackRest's stanza");
        checker.push(flaw, &section.span);
    }
}

/// What is for one strategy only, and what it cannot do without.
fn strategy(root: &Node, checker: &mut Checker<'_>) {
    let Some(name) = root.at(&["strategy"]).and_then(Node::text) else { return };
    let strategy =
        [Strategy::Sync, Strategy::Freeze, Strategy::InPlace, Strategy::Restored].into_iter().find(|s| s.word() == name);
    match strategy {
        Some(Strategy::Sync) => {}
        Some(Strategy::Freeze) => freeze(root, checker),
        Some(Strategy::InPlace) => return in_place(root, checker),
        Some(Strategy::Restored) => restored(root, checker),
        None => return,
    }
    let mut not_here = Unwanted { root, checker, strategy: name };
    if strategy != Some(Strategy::Freeze) {
        not_here.find(&["window", "reads"], "remove it: blue serves until the window, and the window is short");
    }
    not_here.find(&["green", "restore"], "remove it: it is for the strategy `in-place`");
    no_restore(
        root,
        checker,
        "write `rollback` or `hold`: blue is not changed before the writer moves, so there is nothing to restore",
    );
}

/// How far green may be behind has no default where it follows blue.
fn lag(root: &Node, checker: &mut Checker<'_>) {
    let follows = ![Some("in-place"), Some("restored")].contains(&root.at(&["strategy"]).and_then(Node::text));
    if let Some(window) = root.at(&["window"]).filter(|window| follows && window.entry("max_lag").is_none()) {
        let flaw = Flaw::new("the key `max_lag` is missing in `window`");
        let help = "write `max_lag: 1MiB`. Green may be this far behind blue, in bytes of WAL, when the window opens.";
        checker.push(flaw.help(help), &(window.span.start..window.span.start));
    }
}

fn freeze(root: &Node, checker: &mut Checker<'_>) {
    let mut not_here = Unwanted { root, checker, strategy: "freeze" };
    not_here.find(&["gates", "before_migrate"], "write `before_window`: the migrations run inside the freeze");
    for phase in ["migrate", "validate"] {
        not_here.find(&["on_failure_of", phase], "write `window`: migrations and comparison are a part of the freeze");
    }
    if let Some(window) = root.at(&["window"])
        && window.entry("max_pause").is_none()
    {
        let flaw = Flaw::new("`window.max_pause` is missing: it is how long the freeze may last");
        checker.push(flaw.help("write the time for all migrations and the comparison, such as `max_pause: 30m`"), &window.span);
    }
}

/// Blue serves before, during and after a change in place: nothing follows it, and nothing else is there, unless a failed change
/// may be taken back by a restored server.
fn in_place(root: &Node, checker: &mut Checker<'_>) {
    let green = root.at(&["green"]);
    let restores = green.is_some_and(|green| green.entry("restore").is_some());
    let mut not_here = Unwanted { root, checker, strategy: "in-place" };
    if restores {
        for key in ["create", "snapshot", "peer_url"] {
            not_here.find(&["green", key], "remove it: green is there only when the run is taken back by a restore");
        }
        not_here.find(&["window", "reads"], "remove it: it is for the strategy `freeze`");
    } else {
        let help = "remove it: blue is changed itself, and serves all the time. Or name with `green.restore` where blue is restored to \
                    when the change fails";
        for section in ["green", "routes", "window"] {
            not_here.find(&[section], help);
        }
    }
    for section in ["soak", "limits"] {
        not_here.find(&[section], "remove it: blue is changed itself, and serves all the time");
    }
    not_here.find(&["gates", "before_window"], "write `before_migrate`: there is no window");
    not_here.find(&["on_failure_of", "window"], "write `migrate` or `validate`: there is no window");
    not_here.nothing_to_compare();
    if let Some(shadow) = root.at(&["shadow"]).filter(|shadow| shadow.text() == Some(super::ON_GREEN)) {
        let flaw = Flaw::new("`shadow: green`: there is no green in the strategy `in-place`");
        checker.push(flaw.help("name a scratch server, or remove the key"), &shadow.span);
    }
    match green.filter(|_| restores) {
        None => no_restore(root, checker, "name with `green: {url: ..., restore: {data_dir: ...}}` where blue is restored to"),
        Some(green) if root.entry("routes").is_none() => {
            let flaw = Flaw::new("`routes` is missing: applications are moved to the restored server through them");
            checker.push(flaw.help("write `routes:` and under it a list, each entry with `- ` before it"), &green.span);
        }
        Some(_) => {}
    }
}

/// Nothing is migrated, and nothing follows anything.
fn restored(root: &Node, checker: &mut Checker<'_>) {
    let mut not_here = Unwanted { root, checker, strategy: "restored" };
    for section in ["migrations", "shadow", "soak", "limits"] {
        not_here.find(&[section], "remove it: the applications are moved to a server that is there already, and that is all");
    }
    for key in ["create", "snapshot", "peer_url"] {
        not_here.find(&["green", key], "remove it: green is the server that `greenlight restore` made");
    }
    not_here.find(&["gates", "before_migrate"], "write `before_window`: nothing is migrated");
    for phase in ["migrate", "validate"] {
        not_here.find(&["on_failure_of", phase], "write `prepare` or `window`: nothing is migrated");
    }
    not_here.nothing_to_compare();
}

/// Says of keys that they are not for this strategy.
struct Unwanted<'a, 'n, 'c> {
    root: &'n Node,
    checker: &'a mut Checker<'c>,
    strategy: &'a str,
}

impl Unwanted<'_, '_, '_> {
    fn find(&mut self, path: &[&str], help: &str) {
        let (Some((key, sections)), name) = (path.split_last(), path.join(".")) else { return };
        let section = if sections.is_empty() { Some(self.root) } else { self.root.at(sections) };
        if let Some(entry) = section.and_then(|section| section.entry(key)) {
            let flaw = Flaw::new(format!("`{name}` is not for the strategy `{}`", self.strategy));
            self.checker.push(flaw.help(help), &entry.key_span);
        }
    }

    fn nothing_to_compare(&mut self) {
        for key in ["rows", "chunk_rows", "parallel", "exclude"] {
            self.find(
                &["validate", key],
                "remove it: there is no other server with the same rows to compare with; write assertions",
            );
        }
    }
}

/// The word that only some changes in place know.
fn no_restore(root: &Node, checker: &mut Checker<'_>, help: &str) {
    let phases = ["prepare", "migrate", "validate", "window"].map(|phase| root.at(&["on_failure_of", phase]));
    for node in [root.at(&["on_failure"])].into_iter().chain(phases).flatten() {
        if node.text() == Some("restore") {
            checker.push(Flaw::new("`restore` on a failure: there is nothing here to restore to").help(help), &node.span);
        }
    }
}

/// A problem at each value that stood before.
fn twice<'n>(nodes: impl Iterator<Item = &'n Node>, what: &str, checker: &mut Checker<'_>) {
    let mut seen = std::collections::BTreeSet::new();
    for node in nodes {
        if let Some(text) = node.text()
            && !seen.insert(text)
        {
            checker.push(Flaw::new(format!("{} {what}", quoted(text))).help("keep one of the two"), &node.span);
        }
    }
}

/// A URL's endpoint, where all of it can be read.
fn endpoint<'n>(node: Option<&'n Node>, checker: &Checker<'_>) -> Option<(&'n Node, Endpoint)> {
    let node = node?;
    Some((node, read_url(node.text()?, checker.environment).endpoint?))
}

fn same_server(one: &Endpoint, other: &Endpoint) -> bool {
    one.port == other.port && host_of(one) == host_of(other)
}

fn host_of(endpoint: &Endpoint) -> String {
    match endpoint.host.as_str() {
        "127.0.0.1" | "::1" => "localhost".to_owned(),
        host => host.to_lowercase(),
    }
}
