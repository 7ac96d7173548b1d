//! What a PgBouncer says of itself when a run is planned. Nothing is changed.

use super::conffile::Files;
use super::file::{entry_refused, read_config, write_beside};
use super::{Entry, PgBouncer, Row, console::NoAnswer, number};
use crate::plan::{RouteEntry, RouteProblem, RouteSurvey};
use crate::process::files::Held;
use crate::route::Target;
use crate::word::PortError;
use std::{fs, net::IpAddr, os::unix::fs::MetadataExt, path::Path};

/// The first version that carries prepared statements through transaction pooling.
const PREPARES_SINCE: (u32, u32) = (1, 21);

impl PgBouncer {
    /// Looks at everything that the window will need of this route. What is wrong is in `problems`, in words for a
    /// person. Whether it is blue that answers is left open: that takes a look at blue, too.
    pub async fn survey(&self) -> RouteSurvey {
        let mut survey = RouteSurvey {
            name: self.name.clone(),
            entry: None,
            points_at: None,
            about: String::new(),
            problems: self.file_problems(),
            answers_from_blue: None,
            file_unknown: None,
            namesakes: Vec::new(),
            users: Vec::new(),
            arrival: None,
        };
        match self.survey_console(&mut survey).await {
            Ok(()) => match self.met(&self.probe).await {
                Ok((_, arrival)) => survey.arrival = Some(arrival),
                Err(error) => survey.problems.push(problem(&error)),
            },
            Err(error) => survey.problems.push(problem(&error)),
        }
        survey
    }

    async fn survey_console(&self, survey: &mut RouteSurvey) -> Result<(), PortError> {
        let version = self.command("SHOW VERSION").await?;
        let version = version.into_iter().next().and_then(|row| row.into_values().next()).unwrap_or_default();
        survey.about.clone_from(&version);
        if let Some(problem) = self.admin_problem().await? {
            survey.problems.push(problem);
        }
        let files = self.files().await?;
        match files.have(&self.config) {
            Some(true) => {}
            Some(false) => survey.problems.push(RouteProblem {
                what: files.in_words(&self.config),
                remedy: "write the file that PgBouncer reads into the route's `config`: its own, or one that it includes"
                    .to_owned(),
            }),
            None => survey.file_unknown = Some(files.in_words(&self.config)),
        }
        let row = self.row().await?;
        let state = self.state(&row).await?;
        survey.points_at = Some(state.points_at.to_string());
        survey.about = self.about(&version, &row).await?;
        if state.paused {
            survey.problems.push(RouteProblem {
                what: format!("the database `{}` is paused already", self.database),
                remedy: format!("find out who paused it; `RESUME {}` on the admin console ends it", self.database),
            });
        }
        if number(&row, "disabled") != Some(0) {
            survey.problems.push(RouteProblem {
                what: format!("the database `{}` is disabled", self.database),
                remedy: format!("`ENABLE {}` on the admin console", self.database),
            });
        }
        let file = read_config(&self.config).ok();
        if let Some((file, entry)) = file.and_then(|file| Entry::find(&file, &self.database).ok().map(|entry| (file, entry))) {
            let written = self.target_of(&entry).await?;
            if written != state.points_at {
                survey.problems.push(RouteProblem {
                    what: format!(
                        "PgBouncer sends clients to `{}`, but its configuration says `{written}`: the next RELOAD would move them",
                        state.points_at
                    ),
                    remedy: format!(
                        "`RELOAD` where the file is right, else correct `{}`; {}",
                        self.config.display(),
                        files.in_words(&self.config)
                    ),
                });
            }
            let [host, port, dbname] = super::KEYS.map(|key| entry.written(&file, key));
            survey.entry = Some(RouteEntry { points_at: state.points_at.clone(), host, port, dbname });
        }
        survey.namesakes = self.namesakes(&state.points_at, &files).await?;
        survey.users = self.pool_users().await?;
        Ok(())
    }

    /// Entries under other names that lead to the same database, the entry for all other names among them.
    async fn namesakes(&self, target: &Target, files: &Files) -> Result<Vec<String>, PortError> {
        let mut found = Vec::new();
        let rows = self.command("SHOW DATABASES").await?;
        let is_named = |name: &str| rows.iter().any(|row| row.get("name").is_some_and(|of| of == name));
        for row in rows.iter().filter(|row| row.get("name") != Some(&self.database)) {
            let Some(name) = row.get("name").filter(|name| *name != "pgbouncer" && **name != self.rehearsal_name()) else {
                continue;
            };
            let leads_to = self.state(row).await?.points_at;
            if leads_to.database == target.database && same_server(&leads_to, target).await {
                found.push(name.clone());
            }
        }
        for file in &files.read {
            let Ok(text) = tokio::fs::read(file).await else { continue };
            let Some(entry) = Entry::fallback(&text) else { continue };
            let leads_to = self.target_of(&entry).await?;
            // Without a name of its own it leads to whatever database the client names.
            let names = entry.get("dbname").map_or_else(|| !is_named(&target.database), |name| name == target.database);
            if names && same_server(&leads_to, target).await {
                found.push("*".to_owned());
            }
        }
        Ok(found)
    }

    /// Asks for something that an admin is refused for another reason than a user who may only look.
    async fn admin_problem(&self) -> Result<Option<RouteProblem>, PortError> {
        let answer = self.ask("RESUME pgbouncer").await?;
        Ok(answer.err().map(|error: NoAnswer| error.text()).filter(|text| text.contains("admin access needed")).map(|_| {
            RouteProblem {
                what: format!("`{}` may only look", self.admin.user),
                remedy: format!("put `{}` into `admin_users` of PgBouncer's configuration, and `RELOAD`", self.admin.user),
            }
        }))
    }

    async fn about(&self, version: &str, row: &Row) -> Result<String, PortError> {
        let pooler_wide = self.setting("pool_mode").await?.unwrap_or_default();
        let mode = row.get("pool_mode").cloned().unwrap_or(pooler_wide);
        let mut about = format!("{version}, {mode} pooling");
        // A user can have a mode of its own, which only its pool shows.
        let session_pools = self.pools().await?.iter().any(|pool| pool.get("pool_mode").is_some_and(|mode| mode == "session"));
        if mode == "session" || session_pools {
            about.push_str("; in session pooling the pause waits until every client has disconnected");
        }
        if version_of(version).is_some_and(|version| version < PREPARES_SINCE) {
            about.push_str("; this version carries no prepared statements in transaction pooling");
        }
        Ok(about)
    }

    /// Whether the configuration can be edited when the time comes.
    fn file_problems(&self) -> Vec<RouteProblem> {
        let file = match read_config(&self.config) {
            Ok(file) => file,
            Err(error) => return vec![problem(&error)],
        };
        let mut problems = Vec::new();
        if let Err(error) = Entry::find(&file, &self.database) {
            problems.push(problem(&entry_refused(&self.config, &self.database, &error)));
        }
        if let Err(error) = try_writing(&self.config, &file) {
            let what = format!("could not write PgBouncer's configuration `{}`: {error}", self.config.display());
            problems.push(RouteProblem { what, remedy: writable(&self.config) });
        }
        problems
    }
}

/// Nothing but a file of the same owner beside it tells whether one can be put in its place.
fn try_writing(config: &Path, content: &[u8]) -> std::io::Result<()> {
    let held = Held::of(config)?;
    fs::remove_file(write_beside(&held.path(), content)?)
}

/// What the file's replacement needs.
fn writable(config: &Path) -> String {
    let path = config.canonicalize().unwrap_or_else(|_| config.to_owned());
    let folder = path.parent().unwrap_or(&path).display();
    let owner = fs::metadata(&path).map_or_else(|_| "its owner".to_owned(), |meta| format!("its owner, uid {}", meta.uid()));
    let own = fs::metadata("/proc/self").map_or_else(|_| String::new(), |meta| format!(", which is uid {} now", meta.uid()));
    format!(
        "the file is replaced by a new one beside it: the user that runs Greenlight{own} must be root or {owner}, and be able to write \
         into the folder `{folder}`"
    )
}

fn problem(error: &PortError) -> RouteProblem {
    let remedy = error.hint.clone().unwrap_or_else(|| "see this route in the playbook, and PgBouncer's log".to_owned());
    RouteProblem { what: error.chain(), remedy }
}

/// Two ways to one server, as far as names and addresses tell.
async fn same_server(one: &Target, other: &Target) -> bool {
    if one.port != other.port {
        return false;
    }
    one.host == other.host || !addresses(&one.host, one.port).await.is_disjoint(&addresses(&other.host, other.port).await)
}

/// Every way to this machine is one address.
async fn addresses(host: &str, port: u16) -> std::collections::HashSet<IpAddr> {
    let here = IpAddr::from([127, 0, 0, 1]);
    if host.is_empty() || host.starts_with(['/', '@']) {
        return [here].into();
    }
    let found = tokio::net::lookup_host((host, port)).await;
    found.into_iter().flatten().map(|address| if address.ip().is_loopback() { here } else { address.ip() }).collect()
}

/// Major and minor in a text such as `PgBouncer 1.18.0`.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().nth(1)?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_its_text() {
        assert_eq!(version_of("PgBouncer 1.18.0"), Some((1, 18)));
        assert_eq!(version_of("PgBouncer 1.21.0dev"), Some((1, 21)));
        assert_eq!(version_of("something else"), None);
    }
}
