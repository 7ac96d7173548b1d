//! The ways in: do the routes lead to blue now, can they be paused, and how do the two servers reach each other?

use super::{Look, fine, handled, needs_accept, refused};
use crate::plan::figures::capital;
use crate::plan::{Finding, RouteSurvey, ServerSpec, StepName};
use crate::word::Side;

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let mut findings = ways_in(look);
    findings.extend(peers(look));
    findings
}

/// The routes themselves.
pub(super) fn ways_in(look: &Look<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = look.survey.routes.iter().flat_map(route).collect();
    if look.input.routes.is_empty() {
        let consequence = "applications that are not repointed by somebody else meet a fenced blue after the window";
        findings.push(needs_accept("no-routes", "The playbook names no route.", consequence));
    }
    findings
}

fn route(route: &RouteSurvey) -> Vec<Finding> {
    let name = &route.name;
    let code = format!("route:{name}");
    if !route.problems.is_empty() {
        let problems = route.problems.iter();
        return problems
            .map(|problem| refused(&code, format!("Route `{name}`: {problem}."), "see this route in the playbook"))
            .collect();
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
    use crate::word::Template;

    #[test]
    fn a_route_must_lead_to_blue() {
        assert_answers(&World::new(), "route:main", "fine");
        assert_answers(&World::with(|w| w.survey.routes[0].answers_from_blue = Some(false)), "route:main", "refused");
        assert_answers(&World::with(|w| w.survey.routes[0].answers_from_blue = None), "route:main", "refused");
        let broken = World::with(|w| w.survey.routes[0].problems.push("no admin rights".to_owned()));
        assert_answers(&broken, "route:main", "refused");
        assert_answers(&World::new(), "no-routes", "none");
        assert_answers(&World::with(|w| w.input.routes.clear()), "no-routes", "needs_accept");
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
