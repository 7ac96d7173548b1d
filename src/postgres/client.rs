//! One session with a PostgreSQL server. It never reconnects by itself: whoever uses it must know when the state that it
//! carried is gone.
//!
//! **Invariant:** every call has a limit. An answer that did not come in time ends the session, so that no later call can
//! mistake an old answer for its own.

use super::{
    failure::{self, Effect},
    passfile, tls,
};
use crate::word::{Endpoint, PortError, TlsMode};
use std::{fmt, time::Duration};
use tokio::task::JoinHandle;
use tokio_postgres::{
    Client, Config, NoTls, Row, Socket,
    config::SslMode,
    tls::MakeTlsConnect,
    types::{FromSql, ToSql, Type},
};

/// How long connecting may take in all, from the first packet to the server's word that it is ready.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// What a session is to be like.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    pub application_name: String,
    /// Settings of the session, as names and values; they go before those of role and database.
    pub settings: Vec<(&'static str, String)>,
    /// How long one call may take before the session is given up.
    pub limit: Duration,
}

impl SessionOptions {
    /// A plain session: the server's own settings, and calls of up to a minute.
    pub fn named(application_name: impl Into<String>) -> SessionOptions {
        SessionOptions { application_name: application_name.into(), settings: Vec::new(), limit: Duration::from_mins(1) }
    }

    /// A session of Greenlight's own: passes our fence, writes though the default is read-only, resolves names by
    /// `pg_catalog` alone, and does not wait for synchronous standbys, which a promoted copy has not got. `limit` bounds each
    /// statement on the server, and each call here a little later.
    pub fn ours(application_name: impl Into<String>, limit: Duration, lock_timeout: Duration) -> SessionOptions {
        let settings = [
            ("greenlight.pass", "on".to_owned()),
            ("default_transaction_read_only", "off".to_owned()),
            ("default_transaction_isolation", "read\\ committed".to_owned()),
            ("search_path", "pg_catalog".to_owned()),
            ("synchronous_commit", "local".to_owned()),
            ("statement_timeout", limit.as_millis().to_string()),
            ("lock_timeout", lock_timeout.as_millis().to_string()),
            ("idle_session_timeout", "0".to_owned()),
            ("idle_in_transaction_session_timeout", "0".to_owned()),
            ("client_min_messages", "warning".to_owned()),
        ];
        SessionOptions {
            application_name: application_name.into(),
            settings: settings.into(),
            limit: limit + Duration::from_secs(1),
        }
    }

    /// Values come out as the same texts on every server, whatever its own settings are: for those that are compared.
    #[must_use]
    pub fn with_same_texts(mut self) -> SessionOptions {
        let same = [
            ("extra_float_digits", "3"),
            ("DateStyle", "ISO"),
            ("IntervalStyle", "postgres"),
            ("TimeZone", "UTC"),
            ("bytea_output", "hex"),
        ];
        self.settings.extend(same.map(|(setting, value)| (setting, value.to_owned())));
        self
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
        let row = session.read("read the session's process id", "SELECT pg_backend_pid()", &[]).await?;
        session.pid = cell(one(&row)?, 0)?;
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
    let connecting = async {
        match tls::connector(endpoint)? {
            Some(tls) => drive(&config, tls).await,
            None => drive(&config, NoTls).await,
        }
        .map_err(|error| failure::of_connecting(attempted(), &error))
    };
    #[expect(clippy::disallowed_methods, reason = "a limit around connecting, which changes nothing")]
    let connected = tokio::time::timeout(CONNECT_LIMIT, connecting).await;
    connected.unwrap_or_else(|_| {
        Err(PortError::transient(attempted())
            .because(format!("no answer within {} s", CONNECT_LIMIT.as_secs()))
            .hint("the way there is closed, or the server hangs"))
    })
}

async fn drive<T>(config: &Config, tls: T) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect(tls).await?;
    let connection = tokio::spawn(async move {
        if let Err(error) = connection.await {
            // Told to whoever calls next; here only for the curious.
            tracing::debug!(%error, "a session ended");
        }
    });
    Ok((client, connection))
}

fn config(endpoint: &Endpoint, options: &SessionOptions) -> Result<Config, PortError> {
    let mut config = Config::new();
    config.host(&endpoint.host).port(endpoint.port).user(&endpoint.user).dbname(&endpoint.database);
    config.application_name(&options.application_name).connect_timeout(CONNECT_LIMIT);
    config.ssl_mode(if endpoint.tls == TlsMode::Disable { SslMode::Disable } else { SslMode::Require });
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
        let words = options.settings.iter().map(|(name, value)| format!("-c {name}={value}"));
        config.options(words.collect::<Vec<String>>().join(" "));
    }
    Ok(config)
}

/// A column of a row, by number.
pub(super) fn cell<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, PortError> {
    row.try_get(column).map_err(|e| PortError::refused(format!("read column {column} of the server's answer")).because(e))
}

/// The first row of an answer that always has one.
pub(super) fn one(rows: &[Row]) -> Result<&Row, PortError> {
    rows.first().ok_or_else(|| PortError::refused("read the server's answer").because("it has no row"))
}
