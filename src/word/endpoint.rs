use super::Secret;
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf};

/// How a connection is protected. libpq's `allow` and `prefer` are not offered: they fall back to plain text unasked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// No TLS. For loopback and sockets only.
    Disable,
    /// TLS, and nothing is verified (libpq's own meaning of `require`). A loud, separate choice.
    Require,
    /// TLS, and the certificate must come from a known authority.
    VerifyCa,
    /// TLS, a known authority, and the name of the host must match.
    #[default]
    VerifyFull,
}

/// One database of one server, and how to log in there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A host name, an address, or the folder of a Unix socket (begins with `/`).
    pub host: String,
    pub port: u16,
    pub database: String,
    pub user: String,
    pub password: Option<Secret>,
    pub tls: TlsMode,
    /// Certificates of the authorities to trust; the system's when none is given.
    pub root_cert: Option<PathBuf>,
    pub client_cert: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    /// A password file in libpq's format, looked up by the *server* when it subscribes, and by us when no password is given.
    pub passfile: Option<PathBuf>,
}

/// The text is not a connection URL that Greenlight can use. Never contains the password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("read the connection URL: {problem}")]
pub struct EndpointError {
    pub problem: String,
}

/// For people: never the password.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}/{}", self.user, self.host, self.port, self.database)
    }
}
