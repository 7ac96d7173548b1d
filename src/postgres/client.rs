//! One session with a PostgreSQL server. It never reconnects by itself: whoever uses it must know when the state that it
//! carried is gone.
//!
//! **Invariant:** every call has a limit. An answer that did not come in time ends the session, so that no later call can
//! mistake an old answer for its own.

use super::{
    auth::{OverTls, Plain, Watched},
    failure::{self, Effect},
    passfile, tls,
};
use crate::word::{Endpoint, PortError, Secret, TlsMode};
use std::{fmt, path::Path, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    task::JoinHandle,
};
use tokio_postgres::{
    Client, Config, Connection, NoTls, Row,
    config::{SslMode, SslNegotiation},
    types::{FromSql, ToSql, Type},
};

/// How long connecting may take in all, from the first packet to the server's word that it is ready.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a statement that only looks waits for a lock.
const READ_LOCK_LIMIT: Duration = Duration::from_secs(5);

/// How names resolve in a session of ours: nothing that anybody else made is found by a name alone. The temporary schema is
/// named, and last: PostgreSQL would put it first.
const SEARCH_PATH: &str = "pg_catalog,pg_temp";

/// The first release with `transaction_timeout`; an older one refuses a login that names it.
const TRANSACTION_TIMEOUT_SINCE: u32 = 17;

/// For whose sake names resolve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// By `SEARCH_PATH`: Greenlight's own statements.
    Ours,
    /// As the server, the database and the role say: statements that somebody else wrote for applications. What Greenlight
    /// itself says there is qualified, operators too.
    Applications,
    /// It is no PostgreSQL and takes no settings.
    Console,
}

/// The setting by which a session of ours says a run's pass. It is sent as the session is opened, where no server logs it.
pub const PASS: &str = "greenlight.pass";

/// What a session is to be like.
#[derive(Clone)]
pub struct SessionOptions {
    application_name: String,
    /// Settings of the session, as names and values; they go before those of role and database.
    settings: Vec<(&'static str, String)>,
    names: Names,
    /// How long one call may take before the session is given up.
    limit: Duration,
}

impl fmt::Debug for SessionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The settings may hold a pass.
        f.debug_struct("SessionOptions").field("application_name", &self.application_name).finish_non_exhaustive()
    }
}

impl SessionOptions {
    /// A session of Greenlight's own: writes though the default is read-only, resolves names by
    /// `pg_catalog` alone, and does not wait for synchronous standbys, which a promoted copy has not got. `limit` bounds each
    /// statement on the server, and each call here a little later.
    ///
    /// Whoever owns the database says what its settings are, so that those count as hostile by which statements or their
    /// answers would be read otherwise.
    pub fn ours(application_name: impl Into<String>, limit: Duration, lock_timeout: Duration) -> SessionOptions {
        let options = SessionOptions {
            application_name: application_name.into(),
            settings: Vec::new(),
            names: Names::Ours,
            limit: limit + Duration::from_secs(1),
        };
        options
            .with("search_path", SEARCH_PATH)
            .with("role", "none")
            .with("row_security", "off")
            .with("standard_conforming_strings", "on")
            .with("quote_all_identifiers", "off")
            // Planning would evaluate the conditions of CHECK constraints.
            .with("constraint_exclusion", "partition")
            .with("default_transaction_read_only", "off")
            .with("default_transaction_isolation", "read committed")
            .with("default_transaction_deferrable", "off")
            .with("synchronous_commit", "local")
            .with("statement_timeout", &limit.as_millis().to_string())
            .with("lock_timeout", &lock_timeout.as_millis().to_string())
            .with("idle_session_timeout", "0")
            .with("idle_in_transaction_session_timeout", "0")
            .with("client_min_messages", "warning")
    }

    /// One of ours that changes nothing, and waits for nobody's lock for long.
    pub fn reading(application_name: impl Into<String>) -> SessionOptions {
        SessionOptions::ours(application_name, Duration::from_mins(1), READ_LOCK_LIMIT).read_only()
    }

    /// For statements that somebody wrote for applications: names resolve as they do for those. `limit` as in `ours`;
    /// `Duration::MAX`: none.
    pub fn for_applications(application_name: impl Into<String>, limit: Duration) -> SessionOptions {
        let on_server = if limit == Duration::MAX { 0 } else { limit.as_millis() };
        let options = SessionOptions {
            application_name: application_name.into(),
            settings: Vec::new(),
            names: Names::Applications,
            limit: limit.saturating_add(Duration::from_secs(1)),
        };
        options
            .with("row_security", "off")
            .with("default_transaction_read_only", "off")
            .with("default_transaction_isolation", "read committed")
            .with("statement_timeout", &on_server.to_string())
            .with("idle_session_timeout", "0")
            .with("idle_in_transaction_session_timeout", "0")
            .with("client_min_messages", "warning")
    }

    /// A session as anybody else would open it, with the settings that the server, the database and the role give it: to see
    /// those, or whether it is let in.
    pub fn untouched(application_name: impl Into<String>, limit: Duration) -> SessionOptions {
        SessionOptions { application_name: application_name.into(), settings: Vec::new(), names: Names::Applications, limit }
    }

    /// For PgBouncer's admin console, which is no PostgreSQL, and for a client of PgBouncer, which refuses one that brings
    /// settings.
    pub fn pgbouncer(application_name: impl Into<String>) -> SessionOptions {
        let limit = Duration::from_mins(1);
        SessionOptions { application_name: application_name.into(), settings: Vec::new(), names: Names::Console, limit }
    }

    /// Names resolve as in `ours`.
    #[must_use]
    pub fn with_our_names(self) -> SessionOptions {
        SessionOptions { names: Names::Ours, ..self.with("search_path", SEARCH_PATH) }
    }

    /// One more setting, or another value of it.
    #[must_use]
    pub fn with(mut self, setting: &'static str, value: &str) -> SessionOptions {
        self.settings.retain(|(name, _)| *name != setting);
        self.settings.push((setting, value.to_owned()));
        self
    }

    /// Nothing is written but by a transaction that says so.
    #[must_use]
    pub fn read_only(self) -> SessionOptions {
        self.with("default_transaction_read_only", "on")
    }

    /// It passes the fences of the run whose secret this is.
    #[must_use]
    pub fn with_pass(self, pass: &Secret) -> SessionOptions {
        self.with(PASS, pass.expose())
    }

    /// Values come out as the same texts on every server, whatever its own settings are: for those that are compared.
    #[must_use]
    pub fn with_same_texts(self) -> SessionOptions {
        self.with("extra_float_digits", "3")
            .with("DateStyle", "ISO")
            .with("IntervalStyle", "postgres")
            .with("TimeZone", "UTC")
            .with("bytea_output", "hex")
    }

    /// As the startup packet wants them: words apart by spaces, in which a backslash takes a character as it is.
    fn words(&self) -> String {
        let escaped = |value: &str| value.replace('\\', "\\\\").replace(' ', "\\ ");
        let words = self.settings.iter().map(|(name, value)| format!("-c {name}={}", escaped(value)));
        words.collect::<Vec<String>>().join(" ")
    }
}

/// A parameter with its type, so that a call takes one round trip.
pub type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// An open session.
pub struct Session {
    client: Client,
    connection: JoinHandle<()>,
    pid: i32,
    limit: Duration,
    on: String,
}

impl Session {
    /// `on` names the server in errors, such as `blue`.
    ///
    /// # Errors
    /// Nothing has happened on the server: `Transient` when it does not answer now, `Refused` when it does not let us in.
    pub async fn open(endpoint: &Endpoint, options: &SessionOptions, on: impl Into<String>) -> Result<Session, PortError> {
        let on = on.into();
        let (client, connection) = connect(endpoint, options, &on).await?;
        let mut session = Session { client, connection, pid: 0, limit: options.limit, on };
        let sql = "SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('search_path')";
        let rows = session.read("read what the session is like", sql, &[]).await?;
        let row = one(&rows)?;
        if options.names == Names::Ours && cell::<&str>(row, 1)? != SEARCH_PATH {
            return Err(PortError::refused(format!("use the session on {}", session.on))
                .because("its settings did not reach the server: something stands between that leaves them out")
                .hint("name the server itself in the URL, not a pooler"));
        }
        session.pid = cell(row, 0)?;
        Ok(session)
    }

    /// For what needs the driver itself, such as COPY. Calls made through it have no limit.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The process on the server.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// One statement that only looks, in one round trip.
    pub async fn read(&self, attempted: &str, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, PortError> {
        self.within(attempted, Effect::Read, self.client.query_typed(sql, params)).await
    }

    /// One statement that changes something, in one round trip. Its rows are those of RETURNING or of the functions called.
    pub async fn change(&self, attempted: &str, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, PortError> {
        self.within(attempted, Effect::Change, self.client.query_typed(sql, params)).await
    }

    /// Statements without parameters, all or nothing, in one round trip.
    pub async fn batch(&self, attempted: &str, sql: &str) -> Result<(), PortError> {
        self.within(attempted, Effect::Change, self.client.batch_execute(sql)).await
    }

    async fn within<T>(
        &self,
        attempted: &str,
        effect: Effect,
        call: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, PortError> {
        let attempted = || format!("{attempted} on {}", self.on);
        #[expect(clippy::disallowed_methods, reason = "the session is given up with the call, and the error says so")]
        if let Ok(answer) = tokio::time::timeout(self.limit, call).await {
            return answer.map_err(|error| failure::of_call(attempted(), effect, &error));
        }
        self.connection.abort();
        let error = match effect {
            Effect::Read => PortError::transient(attempted()),
            Effect::Change => PortError::uncertain(attempted()),
        };
        Err(error.because(format!("no answer within {} s", self.limit.as_secs())))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Otherwise the connection lives until the server has answered whatever is still under way.
        self.connection.abort();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("on", &self.on).field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// The bare driver's session, for whoever speaks to something that is not quite PostgreSQL.
///
/// # Errors
/// As `Session::open`.
pub async fn connect(endpoint: &Endpoint, options: &SessionOptions, on: &str) -> Result<(Client, JoinHandle<()>), PortError> {
    let attempted = || format!("connect to {on} as `{endpoint}`");
    let config = config(endpoint, options)?;
    let connecting = Box::pin(async {
        if endpoint.is_socket() {
            let path = Path::new(&endpoint.host).join(format!(".s.PGSQL.{}", endpoint.port));
            let stream = UnixStream::connect(path).await.map_err(|error| {
                let hint = "nothing listens there: is the server running, are host and port right?";
                PortError::transient(attempted()).because(error).hint(hint)
            })?;
            let connected = config.connect_raw(Watched::new(stream, endpoint), NoTls);
            return drive(connected, options).await.map_err(|error| failure::of_connecting(attempted(), &error));
        }
        match tls::connector(endpoint)? {
            Some(tls) => drive(config.connect(OverTls::new(tls, endpoint)), options).await,
            None => drive(config.connect(Plain::new(endpoint)), options).await,
        }
        .map_err(|error| failure::of_connecting(attempted(), &error))
    });
    #[expect(clippy::disallowed_methods, reason = "a limit around connecting, which changes nothing")]
    let connected = tokio::time::timeout(CONNECT_LIMIT, connecting).await;
    connected.unwrap_or_else(|_| {
        Err(PortError::transient(attempted())
            .because(format!("no answer within {} s", CONNECT_LIMIT.as_secs()))
            .hint("the way there is closed, or the server hangs"))
    })
}

async fn drive<S, T>(
    connecting: impl Future<Output = Result<(Client, Connection<S, T>), tokio_postgres::Error>>,
    options: &SessionOptions,
) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = connecting.await?;
    let major = connection.parameter("server_version").and_then(major_of);
    let connection = tokio::spawn(async move {
        if let Err(error) = connection.await {
            // Told to whoever calls next; here only for the curious.
            tracing::debug!(%error, "a session ended");
        }
    });
    if !options.settings.is_empty() && major.is_some_and(|major| major >= TRANSACTION_TIMEOUT_SINCE) {
        client.batch_execute("SET transaction_timeout = 0").await?;
    }
    Ok((client, connection))
}

/// Of a server's own version, such as `18.4 (Debian 18.4-1)`.
fn major_of(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn config(endpoint: &Endpoint, options: &SessionOptions) -> Result<Config, PortError> {
    let mut config = Config::new();
    config.host(&endpoint.host).port(endpoint.port).user(&endpoint.user).dbname(&endpoint.database);
    config.application_name(&options.application_name).connect_timeout(CONNECT_LIMIT);
    // Without TLS the driver is told that it has it, with nothing to agree on, so that the stream is watched.
    config.ssl_mode(if endpoint.is_socket() { SslMode::Disable } else { SslMode::Require });
    config.ssl_negotiation(if endpoint.tls == TlsMode::Disable { SslNegotiation::Direct } else { SslNegotiation::Postgres });
    // A server that has gone without a word is noticed in some ten seconds.
    config.keepalives(true).keepalives_idle(Duration::from_secs(5)).keepalives_interval(Duration::from_secs(2));
    config.keepalives_retries(3).tcp_user_timeout(Duration::from_secs(10));
    match (&endpoint.password, &endpoint.passfile) {
        (Some(password), _) => {
            config.password(password.expose());
        }
        (None, Some(path)) => {
            if let Some(password) = passfile::password(path, endpoint)? {
                config.password(password.expose());
            }
        }
        (None, None) => (),
    }
    if !options.settings.is_empty() {
        config.options(options.words());
    }
    Ok(config)
}

/// A column of a row, by number.
pub(crate) fn cell<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, PortError> {
    row.try_get(column).map_err(|e| PortError::refused(format!("read column {column} of the server's answer")).because(e))
}

/// The first row of an answer that always has one.
pub(crate) fn one(rows: &[Row]) -> Result<&Row, PortError> {
    rows.first().ok_or_else(|| PortError::refused("read the server's answer").because("it has no row"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_value_of_a_setting_goes_before_an_earlier_one() {
        let options = SessionOptions::ours("t", Duration::from_secs(1), Duration::from_secs(2)).read_only();
        let words = options.words();
        assert!(words.contains("-c search_path=pg_catalog,pg_temp -c role=none -c row_security=off"), "{words}");
        assert!(words.contains(r"-c default_transaction_isolation=read\ committed"), "{words}");
        assert!(words.contains("default_transaction_read_only=on") && !words.contains("read_only=off"), "{words}");
    }

    #[test]
    fn the_major_version_is_read_from_every_form() {
        assert_eq!(major_of("17.5 (Debian 17.5-1.pgdg120+1)"), Some(17));
        assert_eq!(major_of("18beta1"), Some(18));
        assert_eq!(major_of("devel"), None);
    }
}
