//! A server for what is not trusted: somebody else's functions and triggers run in it with every right of the server.
//!
//! It is reached by a socket only, in a folder of mode 0700, with a random password. Where this process is root it runs as a
//! number that belongs to nobody: what escapes from it owns no file, holds no variable, and gets no more rights. Where this
//! process is not root it runs as this user, and what escapes has this user's rights.

use super::processes;
use super::server::{LocalServer, Login, NewServer};
use crate::postgres::programs::Programs;
use crate::process::{self, ServerUser};
use crate::word::{Clock, Endpoint, PortError, Secret};
use std::{fmt, fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

/// Numbers that systems give to nobody: neither to people, nor to services, nor to containers.
const SPARE: std::ops::Range<u32> = 60_578..61_184;
/// The socket's name has it, and nothing listens there.
const PORT: u16 = 5432;
const SUPERUSER: &str = "greenlight";
/// What the system takes as the address of a socket, less the socket's own name.
const FOLDER_MAX: usize = 107 - "/.s.PGSQL.5432".len();
const START_LIMIT: Duration = Duration::from_mins(1);

/// See the module. Ended and removed by `remove` only; the folder is the caller's.
pub struct Throwaway {
    server: LocalServer,
    user: ServerUser,
    password: Secret,
}

/// As whom a throwaway server runs.
///
/// # Errors
/// `Refused` when this process is root and no number is found that certainly belongs to nobody.
pub async fn spare_user() -> Result<ServerUser, PortError> {
    if !process::running_as_root() {
        return Ok(ServerUser::Usual);
    }
    let count = SPARE.end - SPARE.start;
    let begin = u32::try_from(uuid::Uuid::new_v4().as_u128() % u128::from(count)).unwrap_or(0);
    for at in 0..count {
        let id = SPARE.start + (begin + at) % count;
        if processes::of_user(id).is_empty() && !is_known("passwd", id).await? && !is_known("group", id).await? {
            return Ok(ServerUser::Spare(id));
        }
    }
    Err(PortError::refused("find a user's number that belongs to nobody"))
}

/// Whether the system's list of users or groups has this number.
async fn is_known(list: &str, id: u32) -> Result<bool, PortError> {
    let mut command = process::new_command(Path::new("getent"));
    let answer = process::output(command.args([list, &id.to_string()]), Duration::from_secs(30)).await?;
    match answer.status.code() {
        Some(0) => Ok(true),
        // It has looked, and found none.
        Some(2) => Ok(false),
        _ => {
            Err(PortError::refused(format!("look for the number {id} among `{list}`"))
                .because(process::last_lines(&answer.stderr)))
        }
    }
}

impl Throwaway {
    /// Makes the server below `folder`, which is this process's and empty, and starts it as `user`.
    ///
    /// # Errors
    /// `Refused` when it cannot be made or does not start.
    pub async fn start(
        programs: &Programs,
        folder: &Path,
        user: ServerUser,
        settings: &[(&str, &str)],
        clock: &Arc<dyn Clock>,
    ) -> Result<Throwaway, PortError> {
        let own = folder.join("own");
        if own.as_os_str().len() > FOLDER_MAX {
            return Err(PortError::refused(format!("put a socket into `{}`", own.display()))
                .because(format!("the path has more than {FOLDER_MAX} bytes"))
                .hint("set TMPDIR to a folder with a shorter path"));
        }
        let password = Secret::new(uuid::Uuid::new_v4().simple().to_string() + &uuid::Uuid::new_v4().simple().to_string());
        let server = LocalServer {
            programs: programs.clone(),
            data_dir: own.join("data"),
            port: PORT,
            log: own.join("log"),
            durable: false,
            clock: clock.clone(),
        };
        let socket = format!("\"{}\"", own.display().to_string().replace('"', "\"\""));
        let only_socket = [("listen_addresses", ""), ("unix_socket_directories", &socket), ("unix_socket_permissions", "0700")];
        let settings = settings.iter().chain(&only_socket).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let new =
            NewServer { superuser: SUPERUSER.to_owned(), login: Login::Scram(password.clone()), settings: settings.collect() };
        make(&server, &new, folder, &own, user).await?;
        server.start_as(user, START_LIMIT).await?;
        Ok(Throwaway { server, user, password })
    }

    /// Its superuser, in the database `postgres`.
    pub fn endpoint(&self) -> Endpoint {
        let folder = self.server.log.parent().unwrap_or(Path::new("/"));
        Endpoint::by_socket(folder, PORT, "postgres", SUPERUSER, Some(self.password.clone()))
    }

    /// For a person: as whom it runs.
    pub fn runs_as(&self) -> String {
        match self.user {
            ServerUser::Spare(id) => format!("run by the system's user number {id}, which belongs to nobody"),
            ServerUser::Usual => "run by the user of this process, since only root can run it as another".to_owned(),
        }
    }
}

impl fmt::Debug for Throwaway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throwaway").field("server", &self.server).field("user", &self.user).finish_non_exhaustive()
    }
}

/// Ends whatever runs in the throwaway server's folder or as its user, also what has left it.
pub fn end(folder: &Path, user: ServerUser) {
    super::crash_in(&folder.join("own/data"));
    if let ServerUser::Spare(id) = user {
        // What is being ended may start more.
        for _ in 0..100 {
            let pids = processes::of_user(id);
            if pids.is_empty() {
                return;
            }
            processes::kill_and_wait(&pids);
        }
    }
}

/// PostgreSQL makes a data folder for a user with a name only, and a spare number has none: so it is made by the servers'
/// usual user, who is asked for nothing else, and handed on as a stream, which carries no owner and no link of another's.
async fn make(server: &LocalServer, new: &NewServer, folder: &Path, own: &Path, user: ServerUser) -> Result<(), PortError> {
    let attempted = |e: std::io::Error| PortError::refused(format!("make the folder `{}`", own.display())).because(e);
    let ServerUser::Spare(id) = user else {
        process::files::make_private_folder(own, "").map_err(attempted)?;
        return server.init(new).await;
    };
    // Others may pass through and see nothing.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).map_err(attempted)?;
    process::files::make_folder_for(own, id, id).map_err(attempted)?;
    let made = LocalServer { data_dir: folder.join("made"), ..server.clone() };
    made.init(new).await?;
    let mut from = process::server_command(Path::new("tar"));
    from.arg("-C").arg(&made.data_dir).args(["-cf", "-", "."]);
    let mut to = process::command_as(user, Path::new("sh"));
    to.args(["-c", r#"umask 077; mkdir -- "$1" && tar -C "$1" -xf -"#, "sh"]).arg(&server.data_dir);
    process::pipe(&mut from, &mut to).await?;
    made.remove().await
}
