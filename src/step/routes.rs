//! Where the routes lead, and whether their clients are served.

use super::{Ports, Route, StepContext};
use crate::plan::StepName;
use crate::postgres::Server;
use crate::run::{Fact, StepState};
use crate::word::{PortError, Side};
use futures_util::future::join_all;
use std::{fmt, sync::Arc};

/// Where one route leads now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lead {
    pub route: String,
    pub to: LeadsTo,
    /// Why its clients are not served, where that shows.
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeadsTo {
    Side(Side),
    /// To neither: what it points at.
    Elsewhere(String),
    /// Its clients wait.
    Paused,
    /// Why it cannot be told.
    Unknown(String),
}

impl Lead {
    /// What is wrong with it, when `side` is where it must lead.
    pub fn wrong(&self, side: Side) -> Option<String> {
        match &self.to {
            LeadsTo::Side(to) if *to == side => self.trouble.clone(),
            _ => Some(self.to.to_string()),
        }
    }
}

impl fmt::Display for LeadsTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LeadsTo::Side(side) => write!(f, "leads to {side}"),
            LeadsTo::Paused => f.write_str("leads nobody knows where: it is paused"),
            LeadsTo::Elsewhere(what) => write!(f, "points at {what}, where neither blue nor green answers"),
            LeadsTo::Unknown(why) => write!(f, "leads nobody knows where: {why}"),
        }
    }
}

/// Where each route leads now: by its running state, and by who answers through it. Changes nothing.
pub async fn leads(ports: &Ports) -> Vec<Lead> {
    let (blue, green) = (signature(&ports.blue).await, signature(&ports.green).await);
    join_all(ports.routes.iter().map(|route| lead(route, blue.as_deref(), green.as_deref()))).await
}

/// `None`: the server does not answer, so it is not the one that answers through a route.
async fn signature(server: &Arc<dyn Server>) -> Option<String> {
    server.signature().await.ok()
}

async fn lead(route: &Route, blue: Option<&str>, green: Option<&str>) -> Lead {
    let name = route.router.name().to_owned();
    let of = |to: LeadsTo, trouble: Option<String>| Lead { route: name.clone(), to, trouble };
    let state = match route.router.observe().await {
        Ok(state) => state,
        Err(error) => return of(LeadsTo::Unknown(error.chain()), None),
    };
    if state.paused {
        return of(LeadsTo::Paused, None);
    }
    let to = match route.router.who_answers().await {
        Ok(answer) if blue == Some(&answer) => LeadsTo::Side(Side::Blue),
        Ok(answer) if green == Some(&answer) => LeadsTo::Side(Side::Green),
        Ok(_) => LeadsTo::Elsewhere(state.points_at.to_string()),
        Err(error) => LeadsTo::Unknown(format!("it points at {}; {}", state.points_at, error.chain())),
    };
    let trouble = match route.router.trouble().await {
        Ok(trouble) => trouble,
        Err(error) => Some(error.chain()),
    };
    of(to, trouble)
}

/// Nothing is left set in the routes, of a rehearsal that was killed or of a window that went back.
pub(super) async fn tidy(cx: &StepContext<'_>) -> Result<(), PortError> {
    PortError::all(join_all(cx.ports.routes.iter().map(|route| route.router.tidy())).await)
}

/// From here on, until all is taken back, a pooler tries a server that was away again at once: by its own setting it does so after
/// seconds only, also once the server is back, and refuses its clients meanwhile. Set ahead, since no look comes while a call lasts.
/// Not worth an error: each look does it again.
pub(super) async fn hasten(cx: &StepContext<'_>) {
    join_all(cx.ports.routes.iter().map(|route| async {
        if let Err(error) = route.router.hasten().await {
            tracing::warn!(error = %error.chain(), "route `{}` could not be told to try its server again at once", route.router.name());
        }
    }))
    .await;
}

/// The same again, since a pooler forgets it when it is started or told to read its configuration.
pub(super) async fn help(cx: &StepContext<'_>) {
    // What is set here is taken back with what the run has prepared. An open window does so itself.
    let prepared = cx.plan.step_no(StepName::PrepareBlue).is_some_and(|step| cx.run().steps[step.0] == StepState::Done);
    if prepared && cx.run().open_window().is_none() {
        hasten(cx).await;
    }
}

/// Looks at every route while `side` serves, and records what has changed. `Some`: what is wrong.
pub(super) async fn watch(cx: &mut StepContext<'_>, side: Side) -> Result<Option<String>, PortError> {
    help(cx).await;
    let leads = leads(cx.ports).await;
    let mut wrong = Vec::new();
    for (lead, route) in leads.iter().zip(&cx.ports.routes) {
        let trouble = lead.wrong(side);
        if cx.run().route_trouble(&lead.route) != trouble.as_deref() {
            cx.learn(Fact::RouteSeen { route: lead.route.clone(), trouble: trouble.clone() }).await?;
        }
        if let Some(trouble) = trouble {
            let remedy = match &lead.to {
                LeadsTo::Side(to) if *to == side => String::new(),
                _ => format!(" (point its entry at {}, and RELOAD)", route.target(side)),
            };
            wrong.push(format!("route `{}` {trouble}{remedy}", lead.route));
        }
    }
    Ok((!wrong.is_empty()).then(|| wrong.join("; ")))
}
