//! What a copy of a server lacks when the server keeps its configuration outside its data folder, as Debian's do.

use super::as_server;
use super::server::{LocalServer, setting_line};
use super::sql::texts;
use crate::postgres::client::Session;
use crate::word::PortError;
use std::{fs, io, path::Path};

/// Settings that say where something lies on blue's machine, or that the copy has its own value for.
const NOT_CARRIED: &str = "data_directory|config_file|hba_file|ident_file|external_pid_file|port";

/// Blue's configuration, where a copy of its data folder does not hold it.
#[derive(Debug)]
pub(super) struct Configuration {
    /// Text of `postgresql.conf`.
    settings: String,
    /// Texts of `pg_hba.conf` and `pg_ident.conf`, where they lie outside the data folder.
    hba: Option<String>,
    ident: Option<String>,
}

impl Configuration {
    pub(super) async fn read(blue: &Session) -> Result<Configuration, PortError> {
        let sql = format!(
            "SELECT name, current_setting(name) FROM pg_settings \
             WHERE source = 'configuration file' AND sourcefile NOT LIKE '%/postgresql.auto.conf' \
             AND name !~ '^({NOT_CARRIED})$' ORDER BY name"
        );
        let rows = texts(blue, "read the settings", &sql).await?;
        let settings = rows.iter().map(|row| setting_line(&row[0], &row[1])).collect();
        Ok(Configuration { settings, hba: outside(blue, "hba_file").await?, ident: outside(blue, "ident_file").await? })
    }

    /// Gives the copy what it lacks.
    pub(super) async fn complete(&self, copy: &LocalServer) -> Result<(), PortError> {
        let conf = copy.data_dir.join("postgresql.conf");
        if fs::symlink_metadata(&conf).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            as_server::write(&conf, &self.settings).await?;
        }
        let mut moved = Vec::new();
        for (setting, file, text) in [("hba_file", "pg_hba.conf", &self.hba), ("ident_file", "pg_ident.conf", &self.ident)] {
            let Some(text) = text else { continue };
            let path = copy.data_dir.join(file);
            as_server::write(&path, text).await?;
            moved.push((setting.to_owned(), path.display().to_string()));
        }
        copy.append_settings("postgresql.auto.conf", &moved).await
    }
}

/// The text of a file that a setting names, where it lies outside the data folder.
async fn outside(blue: &Session, setting: &str) -> Result<Option<String>, PortError> {
    let attempted = format!("read the file that `{setting}` names");
    let sql = format!("SELECT current_setting('{setting}'), current_setting('data_directory')");
    let paths = texts(blue, &attempted, &sql).await?;
    let [path, folder] = paths.first().and_then(|row| row.get(..2)).unwrap_or_default() else { return Ok(None) };
    if Path::new(path).starts_with(folder) {
        return Ok(None);
    }
    let text = texts(blue, &attempted, &format!("SELECT pg_read_file(current_setting('{setting}'))")).await?;
    Ok(text.into_iter().next().and_then(|row| row.into_iter().next()))
}
