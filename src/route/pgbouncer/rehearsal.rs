//! Whether the entry can be moved, tried beside the clients: in the same file a second entry leads to the target, and the
//! entry itself gets a limit that nobody reaches. Both must be seen in the running PgBouncer, and both are taken back.
//!
//! **Invariant:** where the entry leads is not touched.

use super::console::{ANSWER_LIMIT, Row, Session};
use super::{Entry, PgBouncer, RELOAD_LIMIT, ini, number, wanted};
use crate::plan::Arrival;
use crate::postgres::SIGNATURE_SQL;
use crate::route::{Rehearsal, Router, Target};
use crate::word::{Endpoint, PortError, Secret};
use sha2::{Digest, Sha256};
use std::{io, time::Duration};

const POLL: Duration = Duration::from_millis(2);
/// Of connections: more than any PgBouncer has.
const LIMIT: u64 = 900_000;
/// How many users are tried at most.
const USERS_MAX: usize = 20;

impl PgBouncer {
    /// Another database's is another name. PgBouncer takes 63 bytes at most.
    pub(super) fn rehearsal_name(&self) -> String {
        let digest = Sha256::digest(self.database.as_bytes());
        digest[..6].iter().fold("greenlight_rehearsal_".to_owned(), |name, byte| name + &format!("{byte:02x}"))
    }

    pub(super) async fn rehearsal(&self, target: &Target) -> Result<Rehearsal, PortError> {
        let seen = self.tried(target).await;
        let ended = self.no_rehearsal().await;
        let seen = seen?;
        ended.map(|()| seen)
    }

    async fn tried(&self, target: &Target) -> Result<Rehearsal, PortError> {
        let row = self.row().await?;
        let now = number(&row, "max_connections").ok_or_else(|| self.unreadable("max_connections"))?;
        let limit = if now == 0 || now >= LIMIT { LIMIT + u64::from(now == LIMIT) } else { now + 1 };
        let (database, name, parts) = (self.database.clone(), self.rehearsal_name(), self.parts_for(target));
        self.edit_config(move |file| {
            let file = ini::without_rehearsal(file, &database, &name);
            Entry::find(&file, &database)?.rehearsed(&file, &name, limit, &wanted(&parts))
        })
        .await?;
        self.reload_until(
            &format!("see PgBouncer of route `{}` take a change of `{}`", self.name, self.config.display()),
            |rows| {
                let second = find(rows, &self.rehearsal_name());
                second.is_some() && find(rows, &self.database).is_some_and(|row| number(row, "max_connections") == Some(limit))
            },
        )
        .await?;
        let rows = self.command("SHOW DATABASES").await?;
        let second = find(&rows, &self.rehearsal_name()).ok_or_else(|| self.unreadable("name"))?;
        let leads_to = self.state(second).await?.points_at;
        if leads_to != *target {
            let attempted = format!("rehearse route `{}`", self.name);
            return Err(PortError::refused(attempted).because(format!("what is written to lead to {target} leads to {leads_to}")));
        }
        self.arrive(target).await
    }

    /// Logs in to the target through PgBouncer, as our own user and as every other of whom the password can be had.
    async fn arrive(&self, target: &Target) -> Result<Rehearsal, PortError> {
        let (attempted, who) = (|| format!("reach {target} through route `{}`", self.name), &self.probe.user);
        let there = Endpoint { database: self.rehearsal_name(), ..self.probe.clone() };
        let hint = format!(
            "PgBouncer logs in there as `{who}` like the applications do; the entry's own words, pg_hba.conf there and PgBouncer's log \
             say why not. Where PgBouncer reaches the server by another address, say so in the route's `green`"
        );
        let failed = |error: String| PortError::transient(attempted()).because(error).hint(hint.clone());
        let (answers, arrival) = self.met(&there).await.map_err(|error| failed(error.chain()))?;
        let (mut refused, mut let_in) = (Vec::new(), vec![self.probe.user.clone()]);
        for (user, password) in self.passwords().await?.into_iter().take(USERS_MAX) {
            let there = Endpoint { user: user.clone(), password: Some(password), ..there.clone() };
            let Err(why) = self.try_login(&there).await else {
                let_in.push(user);
                continue;
            };
            // Refused the way it goes every day, it tells nothing of the target.
            let here = Endpoint { database: self.database.clone(), ..there };
            if self.try_login(&here).await.is_ok() {
                refused.push((user, why));
            }
        }
        Ok(Rehearsal { answers, arrival, refused, let_in })
    }

    /// Who answers there, and how we came in.
    pub(super) async fn met(&self, at: &Endpoint) -> Result<(String, Arrival), PortError> {
        let attempted = || format!("read through route `{}` which server answers", self.name);
        let failed = |error: String| PortError::transient(attempted()).because(error);
        let session = Session::open(at, &*self.clock).await?;
        let sql = format!(
            "SELECT ({SIGNATURE_SQL}) AS answers, pg_catalog.host(pg_catalog.inet_client_addr()) AS address, \
             (SELECT s.ssl FROM pg_catalog.pg_stat_ssl s WHERE s.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()) AS tls"
        );
        let rows = session.query(&sql, &*self.clock, ANSWER_LIMIT).await.map_err(|error| failed(error.text()))?;
        let row = rows.first().ok_or_else(|| failed("an empty answer".to_owned()))?;
        let answers = row.get("answers").cloned().ok_or_else(|| failed("an empty answer".to_owned()))?;
        let address = row.get("address").map(|address| address.parse()).transpose();
        let address = address.map_err(|error: std::net::AddrParseError| failed(error.to_string()))?;
        Ok((answers, Arrival { address, tls: row.get("tls").is_some_and(|tls| tls == "t") }))
    }

    async fn try_login(&self, at: &Endpoint) -> Result<(), String> {
        let session = Session::open(at, &*self.clock).await.map_err(|error| error.chain())?;
        session.query("SELECT 1", &*self.clock, ANSWER_LIMIT).await.map(drop).map_err(|error| error.text())
    }

    /// Users of this route, other than our own, whose password stands as it is in PgBouncer's `auth_file`, where we may read it.
    async fn passwords(&self) -> Result<Vec<(String, Secret)>, PortError> {
        let Some(path) = self.setting("auth_file").await?.filter(|path| !path.is_empty()) else { return Ok(Vec::new()) };
        let Some(path) = self.as_we_see_it(&path).await? else { return Ok(Vec::new()) };
        let Ok(text) = tokio::fs::read_to_string(path).await else { return Ok(Vec::new()) };
        let users = self.pool_users().await?;
        let of_the_route = |(user, _): &(String, Secret)| *user != self.probe.user && users.contains(user);
        Ok(plain_passwords(&text).filter(of_the_route).collect())
    }

    async fn no_rehearsal(&self) -> Result<(), PortError> {
        if self.remove_rehearsal().await? { self.forget_rehearsal().await } else { Ok(()) }
    }

    /// From the file. `true`: there was something.
    pub(super) async fn remove_rehearsal(&self) -> Result<bool, PortError> {
        let (database, name) = (self.database.clone(), self.rehearsal_name());
        if matches!(tokio::fs::metadata(&self.config).await, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            return Ok(false);
        }
        self.edit_config(move |file| Ok(ini::without_rehearsal(file, &database, &name))).await
    }

    /// The running PgBouncer, after the file.
    pub(super) async fn forget_rehearsal(&self) -> Result<(), PortError> {
        self.reload_until(&format!("see PgBouncer of route `{}` forget what was rehearsed", self.name), |rows| {
            find(rows, &self.rehearsal_name()).is_none()
        })
        .await
    }

    /// Makes PgBouncer read its configuration, and waits until it shows what it should.
    async fn reload_until(&self, attempted: &str, is_so: impl Fn(&[Row]) -> bool + Send) -> Result<(), PortError> {
        let hastened = self.is_hastened().await?;
        self.command("RELOAD").await?;
        if hastened {
            self.hasten().await?;
        }
        let until = self.clock.monotonic() + RELOAD_LIMIT;
        while !is_so(&self.command("SHOW DATABASES").await?) {
            if self.clock.monotonic() >= until {
                let files = self.files().await?;
                return Err(PortError::transient(attempted)
                    .because("RELOAD changed nothing")
                    .hint(format!("{}; PgBouncer's log says whether it could read them", files.in_words(&self.config))));
            }
            self.clock.sleep(POLL).await;
        }
        Ok(())
    }
}

fn find<'a>(rows: &'a [Row], name: &str) -> Option<&'a Row> {
    rows.iter().find(|row| row.get("name").is_some_and(|of| of == name))
}

/// The lines of an `auth_file` that hold a password as it is, and no hash of it.
fn plain_passwords(text: &str) -> impl Iterator<Item = (String, Secret)> {
    text.lines().filter_map(|line| {
        let (user, rest) = quoted(line.trim())?;
        let (password, _) = quoted(rest.trim_start())?;
        let is_md5 = password.len() == 35 && password.starts_with("md5");
        (!password.is_empty() && !is_md5 && !password.starts_with("SCRAM-SHA-256$")).then(|| (user, Secret::new(password)))
    })
}

/// The text in the double quotes with which `rest` begins, and what comes after them. A quote inside is written twice.
fn quoted(rest: &str) -> Option<(String, &str)> {
    let rest = rest.strip_prefix('"')?;
    let mut text = String::new();
    let mut chars = rest.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c != '"' {
            text.push(c);
        } else if chars.next_if(|(_, next)| *next == '"').is_some() {
            text.push('"');
        } else {
            return Some((text, &rest[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_passwords_that_are_no_hash_are_read_from_an_auth_file() {
        let text = "\"app\" \"p\"\"w\" \n;\"no\" \"x\"\n\"m\" \"md50123456789abcdef0123456789abcdef\"\n\"s\" \"SCRAM-SHA-256$1\"\n\"e\" \"\"\n\"b\" \"x";
        let found: Vec<(String, String)> =
            plain_passwords(text).map(|(user, password)| (user, password.expose().to_owned())).collect();
        assert_eq!(found, [("app".to_owned(), "p\"w".to_owned())]);
    }
}
