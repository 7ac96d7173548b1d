//! What a PgBouncer says of itself when a run is planned. Nothing is changed.

use super::{Entry, PgBouncer, Row, console::NoAnswer, entry_refused, number, read_config, write_beside};
use crate::plan::RouteSurvey;
use crate::process::files::Held;
use crate::route::Router;
use crate::word::PortError;
use std::{fs, path::Path};

/// The first version that carries prepared statements through transaction pooling.
const PREPARES_SINCE: (u32, u32) = (1, 21);

impl PgBouncer {
    /// Looks at everything that the window will need of this route. What is wrong is in `problems`, in words for a
    /// person. Whether it is blue that answers is left open: that takes a look at blue, too.
    pub async fn survey(&self) -> RouteSurvey {
        let mut survey = RouteSurvey {
            name: self.name.clone(),
            points_at: None,
            about: String::new(),
            problems: self.file_problems(),
            answers_from_blue: None,
        };
        match self.survey_console(&mut survey).await {
            Ok(()) => {
                if let Err(error) = self.who_answers().await {
                    survey.problems.push(in_words(&error));
                }
            }
            Err(error) => survey.problems.push(in_words(&error)),
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
        let row = self.row().await?;
        let state = self.state(&row).await?;
        survey.points_at = Some(state.points_at.to_string());
        survey.about = self.about(&version, &row).await?;
        if state.paused {
            survey.problems.push(format!("the database `{}` is paused already; try `RESUME` first", self.database));
        }
        if number(&row, "disabled") != Some(0) {
            survey.problems.push(format!("the database `{}` is disabled; try `ENABLE` first", self.database));
        }
        let file = read_config(&self.config).ok();
        if let Some(entry) = file.and_then(|file| Entry::find(&file, &self.database).ok()) {
            let written = self.target_of(&entry).await?;
            if written != state.points_at {
                survey.problems.push(format!(
                    "PgBouncer sends clients to `{}`, but its configuration says `{written}`: the next RELOAD would move them",
                    state.points_at
                ));
            }
        }
        Ok(())
    }

    /// Asks for something that an admin is refused for another reason than a user who may only look.
    async fn admin_problem(&self) -> Result<Option<String>, PortError> {
        let answer = self.ask("RESUME pgbouncer").await?;
        Ok(answer
            .err()
            .map(|error: NoAnswer| error.text())
            .filter(|text| text.contains("admin access needed"))
            .map(|_| format!("`{}` may only look; it must be in `admin_users` of PgBouncer's configuration", self.admin.user)))
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
    fn file_problems(&self) -> Vec<String> {
        let file = match read_config(&self.config) {
            Ok(file) => file,
            Err(error) => return vec![in_words(&error)],
        };
        let mut problems = Vec::new();
        if let Err(error) = Entry::find(&file, &self.database) {
            problems.push(in_words(&entry_refused(&self.config, &self.database, &error)));
        }
        if let Err(error) = try_writing(&self.config, &file) {
            problems.push(format!("could not write PgBouncer's configuration `{}`: {error}", self.config.display()));
        }
        problems
    }
}

/// Nothing but a file of the same owner beside it tells whether one can be put in its place.
fn try_writing(config: &Path, content: &[u8]) -> std::io::Result<()> {
    let held = Held::of(config)?;
    fs::remove_file(write_beside(&held.path(), content)?)
}

fn in_words(error: &PortError) -> String {
    match &error.hint {
        Some(hint) => format!("{}; {hint}", error.chain()),
        None => error.chain(),
    }
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
