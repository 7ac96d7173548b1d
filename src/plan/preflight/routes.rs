//! The ways in: do the routes lead to blue now, can they be paused, and how do the two servers reach each other?

use super::{Look, fine, handled, needs_accept, refused};
use crate::plan::figures::capital;
use crate::plan::{Comparison, Finding, RouteSpec, RouteSurvey, ServerSpec, StepName};
use crate::word::Side;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let mut findings = ways_in(look);
    findings.extend(direct_sessions(look));
    findings.extend(peers(look));
    findings
}

/// Whether green lets in whoever comes by the routes. Nothing of what decides that comes to green by logical replication.
fn access(look: &Look<'_>) -> Vec<Finding> {
    let (blue, green) = match &look.survey.access {
        None => return Vec::new(),
        Some(Ok((blue, green))) => (blue, green),
        Some(Err(why)) => {
            let seen = format!("What decides who gets in could not be read: {why}.");
            return vec![refused("access", seen, "let Greenlight's user be a superuser on both servers")];
        }
    };
    let mut findings = BTreeMap::new();
    for (route, spec) in look.survey.routes.iter().zip(&look.input.routes) {
        let arrival = route.arrival.filter(|arrival| arrival.is_local() == leads_here(look, spec));
        if arrival.is_some_and(|arrival| arrival.tls) && !green.tls {
            let seen = format!("Route `{}` comes to blue by TLS, and green has `ssl = off`.", route.name);
            let remedy = "give green a certificate, and on green: `ALTER SYSTEM SET ssl = on; SELECT pg_reload_conf()`";
            findings.insert(format!("access-tls:{}", route.name), refused(format!("access-tls:{}", route.name), seen, remedy));
        }
        let comparison = Comparison {
            serving: blue,
            next: green,
            arrival,
            database: &look.blue().database,
            let_in: &[],
            side: Side::Green,
            settings: true,
        };
        for lack in comparison.lacks(&route.users) {
            let code = format!("access:{}", lack.role);
            let seen = format!("Green would not take over for `{}`: {}.", lack.role, lack.what);
            let finding = if lack.unknown {
                needs_accept(
                    &code,
                    format!("{seen} {}", capital(&lack.remedy)),
                    "its clients may be kept out of green after the window",
                )
            } else {
                refused(&code, seen, lack.remedy)
            };
            findings.insert(format!("{code} {}", lack.what), finding);
        }
    }
    if findings.is_empty() {
        let users: BTreeSet<&str> = look.survey.routes.iter().flat_map(|route| &route.users).map(String::as_str).collect();
        let known = blue.roles.iter().filter(|role| users.contains(role.name.as_str())).count();
        let seen = format!("Green lets in whoever comes by the routes ({known} roles compared).");
        return vec![handled("access", seen, StepName::Window, "compared again before the clients are paused, and logins tried")];
    }
    findings.into_values().collect()
}

/// The pooler's way to green is one of this machine, as far as the playbook says it.
fn leads_here(look: &Look<'_>, route: &RouteSpec) -> bool {
    route.green.host.as_ref().map_or_else(
        || is_loopback(&look.input.green.url.0),
        |host| host.starts_with('/') || ["localhost", "127.", "::1"].iter().any(|local| host.starts_with(local)),
    )
}

/// The routes themselves.
pub(super) fn ways_in(look: &Look<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = look.survey.routes.iter().flat_map(route).collect();
    if look.input.routes.is_empty() {
        let consequence = "applications that are not repointed by somebody else meet a fenced blue after the window";
        findings.push(needs_accept("no-routes", "The playbook names no route.", consequence));
    }
    findings.extend(access(look));
    findings
}

/// Who is not moved: the window ends these sessions, and blue refuses their writes from then on. They come and go, so that
/// a word for them would be one for others.
fn direct_sessions(look: &Look<'_>) -> Option<Finding> {
    if look.input.routes.is_empty() {
        return None;
    }
    Some(match &look.survey.direct_sessions {
        Ok(none) if none.is_empty() => fine("direct-sessions", "Every session on blue comes by a route."),
        Ok(sessions) => {
            let seen = format!("These sessions on blue do not come by a route: {}.", sessions.join("; "));
            let how = "CUT OFF in the window, and refused writes on blue after it: give them a route, or end them before";
            handled("direct-sessions", seen, StepName::Window, how)
        }
        Err(why) => {
            let seen = format!("Whether every session on blue comes by a route is not known: {why}.");
            handled("direct-sessions", seen, StepName::Window, "those that do not are cut off in the window")
        }
    })
}

fn route(route: &RouteSurvey) -> Vec<Finding> {
    let name = &route.name;
    let code = format!("route:{name}");
    if !route.problems.is_empty() {
        let problems = route.problems.iter();
        return problems.map(|problem| refused(&code, format!("Route `{name}`: {}.", problem.what), &problem.remedy)).collect();
    }
    let points_at = route.points_at.as_deref().unwrap_or("nobody knows where");
    let mut findings = vec![match route.answers_from_blue {
        Some(true) => fine(code, format!("Route `{name}` points at {points_at}, and blue answers through it ({}).", route.about)),
        Some(false) => {
            let seen = format!("Route `{name}` points at {points_at}, and another server than blue answers through it.");
            refused(code, seen, "point the route at blue first, or take it out of the playbook")
        }
        None => {
            let seen = format!("Route `{name}` points at {points_at}; which server answers through it is not known.");
            refused(code, seen, "give the route a `probe:` URL that can connect through it")
        }
    }];
    if let Some(files) = &route.file_unknown {
        let seen =
            format!("Whether PgBouncer of route `{name}` reads the file that is edited cannot be told from here: {files}.");
        let how = "a change of the file is seen to be taken before the clients are paused, else they are not";
        findings.push(handled(format!("route-file:{name}"), seen, StepName::Window, how));
    }
    for namesake in &route.namesakes {
        let seen =
            format!("`{namesake}` of the same PgBouncer leads to the same database as route `{name}`, and is not moved with it.");
        let consequence =
            "clients that connect by that name stay with blue, which is fenced after the window; name it as a route to move it";
        findings.push(needs_accept(format!("other-entry:{name}/{namesake}"), seen, consequence));
    }
    if route.about.to_lowercase().contains("session") {
        let consequence = "a pause waits for every client to disconnect, and will be given up when `max_pause` is reached";
        findings.push(needs_accept(
            format!("session-pooling:{name}"),
            format!("Route `{name}` pools by session ({}).", route.about),
            consequence,
        ));
    }
    findings
}

/// Each server subscribes to the other in turn, by a connection string that PostgreSQL keeps in its catalogue.
fn peers(look: &Look<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let green_follows = (Side::Blue, &look.input.blue, StepName::SubscribeGreen, "tried when green begins to follow blue");
    let blue_follows = (Side::Green, &look.input.green, StepName::ArmReverse, "tried when blue's subscription is made");
    for (side, spec, step, how) in [green_follows, blue_follows] {
        let (peer, url) = (side.other(), peer_url(spec));
        let code = format!("subscription-password:{side}");
        findings.push(if has_password(url) {
            let seen = format!(
                "{peer}'s subscription keeps the connection string to {side}, password and all, in `pg_subscription`, where superusers can \
                 read it; and so do the WAL, the archives and the base backups that are made of {peer} until `finish`, for as long as they \
                 are kept. A `passfile` or a client certificate on {peer}'s machine avoids that; or name a role of its own in \
                 `{side}.peer_url`, and give it another password after `finish`."
            );
            handled(code, capital(&seen), StepName::Finish, "removed with the subscription, but not from backups and archives")
        } else {
            fine(code, capital(&format!("{peer}'s subscription keeps no password.")))
        });
        let addresses = [url, peer_url(other(look, side))];
        let visible = addresses.iter().all(|url| !url.starts_with("${"));
        if visible && look.green().is_some() && is_loopback(addresses[0]) != is_loopback(addresses[1]) {
            let seen = format!(
                "One of the servers is named by a loopback address and the other is not: {peer} may take the address of {side} for its own."
            );
            findings.push(refused(
                format!("peer-address:{side}"),
                capital(&seen),
                format!("give `{side}.peer_url` as {peer} reaches it"),
            ));
            continue;
        }
        let seen = format!("Whether {peer} reaches {side} cannot be tried without changing something.");
        findings.push(handled(format!("peer-address:{side}"), capital(&seen), step, how));
    }
    findings
}

fn other<'a>(look: &Look<'a>, side: Side) -> &'a ServerSpec {
    match side {
        Side::Blue => &look.input.green,
        Side::Green => &look.input.blue,
    }
}

/// The URL by which the other server reaches this one.
fn peer_url(spec: &ServerSpec) -> &str {
    &spec.peer_url.as_ref().unwrap_or(&spec.url).0
}

/// User and password, and host and the rest, of a URL.
fn parts(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority_end = rest.rfind('@').map_or(0, |at| at + 1);
    (&rest[..authority_end], &rest[authority_end..])
}

/// A URL that is one single reference may hold anything, so it is taken to hold one.
fn has_password(url: &str) -> bool {
    if url.starts_with("${") {
        return true;
    }
    let (login, rest) = parts(url);
    // The colon of a reference such as `${env:NAME}` is none.
    without_references(login).contains(':') || rest.contains("password=")
}

fn without_references(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, reference)) = rest.split_once("${") {
        plain.push_str(before);
        rest = reference.split_once('}').map_or("", |(_, after)| after);
    }
    plain + rest
}

fn is_loopback(url: &str) -> bool {
    let (_, rest) = parts(url);
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    host.is_empty() || ["localhost", "127.", "[::1]", "%2F"].iter().any(|loopback| host.starts_with(loopback))
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers};
    use super::*;
    use crate::plan::{Access, RouteProblem};
    use crate::word::Template;

    #[test]
    fn a_route_must_lead_to_blue() {
        assert_answers(&World::new(), "route:main", "fine");
        assert_answers(&World::with(|w| w.survey.routes[0].answers_from_blue = Some(false)), "route:main", "refused");
        assert_answers(&World::with(|w| w.survey.routes[0].answers_from_blue = None), "route:main", "refused");
        let broken = World::with(|w| {
            let (what, remedy) = ("`watcher` may only look".to_owned(), "put it into `admin_users`".to_owned());
            w.survey.routes[0].problems.push(RouteProblem { what, remedy });
        });
        assert_answers(&broken, "route:main", "refused");
        let remedy = broken.finding("route:main").unwrap().answer;
        assert!(matches!(remedy, crate::plan::Answer::Refused { remedy } if remedy.contains("admin_users")));
        assert_answers(&World::new(), "no-routes", "none");
        assert_answers(&World::with(|w| w.input.routes.clear()), "no-routes", "needs_accept");
    }

    #[test]
    fn what_is_not_known_of_a_route_or_not_moved_with_it_is_said() {
        assert_answers(&World::new(), "route-file:main", "none");
        assert_answers(&World::with(|w| w.survey.routes[0].file_unknown = Some("?".to_owned())), "route-file:main", "handled");
        let other = World::with(|w| w.survey.routes[0].namesakes.push("shop_ro".to_owned()));
        assert_answers(&other, "other-entry:main/shop_ro", "needs_accept");
    }

    #[test]
    fn green_must_let_in_whoever_comes_by_the_routes() {
        let with = |change: fn(&mut Access)| {
            World::with(|w| {
                let Some(Ok((_, green))) = &mut w.survey.access else { panic!("it is read") };
                change(green);
            })
        };
        assert_answers(&World::new(), "access", "handled");
        assert_answers(&with(|green| green.roles[0].password = None), "access:app", "refused");
        assert_answers(&with(|green| green.rules.clear()), "access:app", "refused");
        assert_answers(&with(|green| green.rules[0].address = Some("db".to_owned())), "access:app", "needs_accept");
        assert_answers(&World::with(|w| w.survey.access = Some(Err("no rights".to_owned()))), "access", "refused");
        let tls = World::with(|w| {
            w.survey.routes[0].arrival.as_mut().unwrap().tls = true;
            let Some(Ok((_, green))) = &mut w.survey.access else { panic!("it is read") };
            green.tls = false;
        });
        assert_answers(&tls, "access-tls:main", "refused");
        let elsewhere = World::with(|w| {
            w.survey.routes[0].arrival.as_mut().unwrap().address = None;
            let Some(Ok((_, green))) = &mut w.survey.access else { panic!("it is read") };
            green.rules.clear();
        });
        // By which address it comes to green is seen before the window.
        assert_answers(&elsewhere, "access", "handled");
    }

    #[test]
    fn sessions_that_come_by_no_route_are_named() {
        use crate::plan::{ClientSession, direct_sessions};
        let session = |pid, application: &str| ClientSession {
            pid,
            user: "billing".to_owned(),
            application: application.to_owned(),
            address: "10.0.0.7".to_owned(),
        };
        let seen = [session(1, "app"), session(2, "app"), session(3, ""), session(4, "app")];
        let direct = direct_sessions(&seen, &[4]);
        assert_eq!(direct, ["1 session of `billing` from 10.0.0.7", "2 sessions of `billing` (`app`) from 10.0.0.7"]);
        assert_answers(&World::new(), "direct-sessions", "fine");
        assert_answers(&World::with(|w| w.survey.direct_sessions = Ok(direct)), "direct-sessions", "handled");
        assert_answers(&World::with(|w| w.survey.direct_sessions = Err("late".to_owned())), "direct-sessions", "handled");
    }

    #[test]
    fn a_route_that_pools_by_session_needs_a_word() {
        assert_answers(&World::new(), "session-pooling:main", "none");
        let session = World::with(|w| w.survey.routes[0].about = "PgBouncer 1.18, session pooling".to_owned());
        assert_answers(&session, "session-pooling:main", "needs_accept");
    }

    #[test]
    fn a_password_that_a_subscription_would_keep_is_said() {
        assert_answers(&World::new(), "subscription-password:blue", "handled");
        let passfile = "postgresql://repl@db1/shop?passfile=/etc/pass".to_owned();
        let without = World::with(|w| w.input.blue.peer_url = Some(Template(passfile.clone())));
        assert_answers(&without, "subscription-password:blue", "fine");
        assert!(has_password("postgresql://u:${env:P}@h/d"));
        assert!(has_password("${file:/etc/blue-url}"));
        assert!(has_password("postgresql://h/d?user=u&password=x"));
        assert!(!has_password("postgresql://${env:USER}@h/d"));
        assert!(!has_password("postgresql://h:5432/d"));
    }

    #[test]
    fn an_address_that_means_something_else_on_the_other_machine_is_refused() {
        assert_answers(&World::new(), "peer-address:blue", "handled");
        assert_answers(&World::new(), "peer-address:green", "handled");
        let mixed = World::with(|w| w.input.blue.url = Template("postgresql://u@localhost/shop".to_owned()));
        assert_answers(&mixed, "peer-address:blue", "refused");
        let mut given = mixed;
        given.input.blue.peer_url = Some(Template("postgresql://u@db1/shop".to_owned()));
        assert_answers(&given, "peer-address:blue", "handled");
    }
}
