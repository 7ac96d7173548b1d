//! The routes right before a window: do they lead to the side that serves, can they be moved, and will the other side let in
//! whoever comes by them? Tried beside the clients, who notice nothing of it.

use crate::plan::{Answer, Comparison};
use crate::route::Rehearsal;
use crate::step::{StepContext, routes};
use crate::word::{PortError, Side};
use futures_util::future::join_all;

/// `Some`: why not now.
pub(super) async fn ready(cx: &StepContext<'_>, from: Side) -> Result<Option<String>, PortError> {
    if cx.ports.routes.is_empty() {
        return Ok(None);
    }
    routes::help(cx).await;
    let serving = cx.ports.server(from).signature().await?;
    for route in &cx.ports.routes {
        let (router, name) = (&route.router, route.router.name());
        let state = router.observe().await?;
        if state.paused {
            return Ok(Some(format!("route `{name}` is paused by somebody else")));
        }
        match router.who_answers().await {
            // However the entry is written: what answers is what counts.
            Ok(answer) if answer == serving => {}
            Ok(_) => return Ok(Some(format!("route `{name}` points at {} and not at {from}", state.points_at))),
            Err(error) => return Ok(Some(format!("route `{name}` to answer: {}", said(&error)))),
        }
    }
    Ok(None)
}

/// `Some`: why the window stays shut.
pub(super) async fn rehearsed(cx: &StepContext<'_>, to: Side) -> Result<Option<String>, PortError> {
    let next = cx.ports.server(to).signature().await?;
    // Each to its end, also when another has failed: it takes back what it did.
    let tried = join_all(cx.ports.routes.iter().map(|route| route.router.rehearse(route.target(to)))).await;
    let mut rehearsals = Vec::new();
    for (route, tried) in cx.ports.routes.iter().zip(tried) {
        let name = route.router.name();
        match tried {
            Ok(rehearsal) if rehearsal.answers == next => rehearsals.push(rehearsal),
            Ok(_) => {
                let target = route.target(to);
                return Ok(Some(format!(
                    "route `{name}` to lead to {to}: another server answers at {target}; the route's `{to}` in the playbook says how it \
                     is reached"
                )));
            }
            Err(error) => return Ok(Some(format!("route `{name}` to be movable: {}", said(&error)))),
        }
    }
    let mut lacks = Vec::new();
    for (route, rehearsal) in cx.ports.routes.iter().zip(&rehearsals) {
        for (user, why) in &rehearsal.refused {
            lacks.push(format!("`{user}` cannot log in through route `{}`: {why}", route.router.name()));
        }
        lacks.extend(lacking(cx, to, &route.router.users().await?, rehearsal).await?);
    }
    lacks.sort();
    lacks.dedup();
    Ok((!lacks.is_empty()).then(|| format!("{to} to let in whoever comes by the routes: {}", lacks.join("; "))))
}

/// What logical replication does not carry: roles, passwords, rules of who gets in.
async fn lacking(cx: &StepContext<'_>, to: Side, users: &[String], seen: &Rehearsal) -> Result<Vec<String>, PortError> {
    let salt = format!("{} {}", cx.plan.run, cx.ports.clock.now());
    let serving = cx.ports.server(to.other()).access(users, &salt).await?;
    let next = cx.ports.server(to).access(users, &salt).await?;
    let comparison = Comparison {
        serving: &serving,
        next: &next,
        arrival: Some(seen.arrival),
        database: &cx.ports.routes[0].target(to).database,
        let_in: &seen.let_in,
        side: to,
        // Back to blue it is enough to get in: a rollback does not wait for what is fine.
        settings: to == Side::Green,
    };
    let accepted = |role: &str| {
        let code = format!("access:{role}");
        cx.plan.findings.iter().any(|finding| finding.code == code && matches!(finding.answer, Answer::Accepted { .. }))
    };
    let lacks = comparison.lacks(users).into_iter().filter(|lack| !(lack.unknown && accepted(&lack.role)));
    Ok(lacks.map(|lack| format!("`{}`: {} ({})", lack.role, lack.what, lack.remedy)).collect())
}

/// The error and what to do about it.
fn said(error: &PortError) -> String {
    match &error.hint {
        Some(hint) => format!("{}; {hint}", error.chain()),
        None => error.chain(),
    }
}
