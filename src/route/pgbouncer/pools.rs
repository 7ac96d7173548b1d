//! Who comes through this database's pools, and whether they are served.

use super::console::Row;
use super::{PgBouncer, number, servers};
use crate::word::PortError;
use std::collections::BTreeSet;

/// A client that waits as long while no server connection is there is not served. In seconds.
const WAITS: u64 = 1;

impl PgBouncer {
    /// As whom PgBouncer logs in to the server for this database: the users of its pools and those that it knows, or the one that
    /// the entry forces; and the one that looks passwords up. Not all of them are roles of the server.
    pub(super) async fn pool_users(&self) -> Result<Vec<String>, PortError> {
        let asks = self.setting("auth_user").await?.filter(|user| !user.is_empty());
        if let Some(forced) = self.row().await?.remove("force_user") {
            return Ok(asks.into_iter().chain([forced]).collect());
        }
        let mut users: BTreeSet<String> = asks.into_iter().collect();
        let of = |row: &mut Row, column: &str| row.remove(column).filter(|user| !user.is_empty());
        users.extend(self.pools().await?.iter_mut().filter_map(|pool| of(pool, "user")));
        users.extend(self.command("SHOW USERS").await?.iter_mut().filter_map(|user| of(user, "name")));
        // PgBouncer's own, of its console.
        users.remove("pgbouncer");
        Ok(users.into_iter().collect())
    }

    pub(super) async fn pools_trouble(&self) -> Result<Option<String>, PortError> {
        let pools = self.pools().await?;
        let troubles: Vec<String> = pools.iter().filter_map(trouble).collect();
        Ok((!troubles.is_empty()).then(|| troubles.join("; ")))
    }
}

/// Clients wait, and no connection to the server comes about.
fn trouble(pool: &Row) -> Option<String> {
    let (waiting, longest, logins) = (number(pool, "cl_waiting")?, number(pool, "maxwait")?, number(pool, "sv_login")?);
    let user = pool.get("user").map_or("?", String::as_str);
    let none_works = servers(pool) <= logins;
    (waiting > 0 && longest >= WAITS && none_works).then(|| {
        let login = if logins > 0 { ", a login is under way" } else { "" };
        format!("clients of `{user}` wait, and PgBouncer has no connection to the server for them{login}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_wait_without_a_connection_to_the_server_are_trouble() {
        let pool = |waiting: u64, longest: u64, active: u64, logins: u64| {
            let columns = [("cl_waiting", waiting), ("maxwait", longest), ("sv_active", active), ("sv_login", logins)];
            let mut row: Row = columns.into_iter().map(|(column, value)| (column.to_owned(), value.to_string())).collect();
            row.insert("user".to_owned(), "app".to_owned());
            trouble(&row)
        };
        assert_eq!(pool(0, 0, 0, 0), None);
        assert_eq!(pool(3, 0, 0, 1), None);
        assert_eq!(pool(3, 9, 2, 0), None, "a full pool");
        assert!(pool(3, 1, 0, 0).is_some_and(|text| text.contains("`app` wait")));
        assert!(pool(3, 1, 0, 2).is_some_and(|text| text.contains("a login is under way")));
    }
}
