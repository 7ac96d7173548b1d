//! Whether one PgBouncer answers where applications connect, or several: each of them holds its own pools, and one that is no
//! route stays where it is while the others move.

use super::PgBouncer;
use super::console::{ANSWER_LIMIT, Row, Session};
use crate::plan::RouteProblem;
use crate::word::{Endpoint, PortError};
use std::collections::HashSet;

/// How often somebody is asked who he is: whoever shares a port shares the connections.
const TRIES: usize = 6;
const TRIES_SHARED: usize = 24;

impl PgBouncer {
    /// What is wrong with this route in view of all of them.
    ///
    /// # Errors
    /// The route cannot be asked.
    pub async fn strangers(&self, routes: &[PgBouncer]) -> Result<Vec<RouteProblem>, PortError> {
        let by_socket = self.admin.host.starts_with('/');
        let shares_port = self.setting("so_reuseport").await?.is_some_and(|value| value != "0");
        let own = self.admin.clone();
        let mut problems = Vec::new();
        if shares_port && !by_socket {
            let folder = self.setting("unix_socket_dir").await?.unwrap_or_default();
            problems.push(RouteProblem {
                what: "its PgBouncer shares its port with others (`so_reuseport`), and `admin` leads to any of them".to_owned(),
                remedy: format!(
                    "name each process as a route of its own, with `admin` by its own Unix socket: this one's folder is `{folder}`"
                ),
            });
        }
        problems.extend(self.missing_peers(routes).await?);
        let tries = if shares_port { TRIES_SHARED } else { TRIES };
        let through = |door: &Endpoint| Endpoint { host: door.host.clone(), port: door.port, tls: door.tls, ..own.clone() };
        let doors = [own.clone(), through(&self.probe)];
        let several = doors[0].host != doors[1].host || doors[0].port != doors[1].port;
        for door in &doors[..if several { 2 } else { 1 }] {
            if door.host.starts_with('/') || !problems.is_empty() {
                continue;
            }
            let known = known_to(routes).await;
            for _ in 0..tries {
                // Whoever does not let an administrator in by this door is not counted.
                let Ok(session) = Session::open(door, &*self.clock).await else { break };
                let Ok(rows) = session.query("SHOW CLIENTS", &*self.clock, ANSWER_LIMIT).await else { break };
                if keys(&rows).is_disjoint(&known) {
                    problems.push(RouteProblem {
                        what: format!(
                            "another PgBouncer than those of the routes answers at `{}:{}` as well",
                            door.host, door.port
                        ),
                        remedy: "name each process as a route of its own, with `admin` by a way that leads to it alone"
                            .to_owned(),
                    });
                    break;
                }
            }
        }
        Ok(problems)
    }

    /// PgBouncers that know each other (`peers`, since 1.19) serve together.
    async fn missing_peers(&self, routes: &[PgBouncer]) -> Result<Option<RouteProblem>, PortError> {
        let Ok(peers) = self.ask("SHOW PEERS").await? else { return Ok(None) };
        let mut known = HashSet::new();
        for route in routes {
            known.extend(route.setting("peer_id").await.ok().flatten());
        }
        let unknown: Vec<String> =
            peers.into_iter().filter_map(|mut peer| peer.remove("peer_id")).filter(|peer| !known.contains(peer)).collect();
        Ok((!unknown.is_empty()).then(|| RouteProblem {
            what: format!("its PgBouncer has peers that are no routes: `peer_id` {}", unknown.join(", ")),
            remedy: "name each process as a route of its own, with `admin` by a way that leads to it alone".to_owned(),
        }))
    }
}

/// The clients at the consoles of all routes; each route's own kept session is among them.
async fn known_to(routes: &[PgBouncer]) -> HashSet<String> {
    let mut known = HashSet::new();
    for route in routes {
        if let Ok(rows) = route.command("SHOW CLIENTS").await {
            known.extend(keys(&rows));
        }
    }
    known
}

/// What no two processes have in common: where a client comes from and since when, and where it lies in memory.
fn keys(clients: &[Row]) -> HashSet<String> {
    let console = clients.iter().filter(|row| row.get("database").is_some_and(|database| database == "pgbouncer"));
    let key = |row: &Row| ["addr", "port", "connect_time", "ptr"].map(|column| row.get(column).cloned().unwrap_or_default());
    console.map(|row| key(row).join(" ")).collect()
}
