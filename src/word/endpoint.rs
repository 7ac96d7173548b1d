use super::Secret;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// How a connection is protected. libpq's `allow` and `prefer` are not offered: they fall back to plain text unasked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// No TLS. For loopback and sockets only.
    Disable,
    /// TLS, and nothing is verified. A loud, separate choice; with `sslrootcert` it is `verify-ca`, as with libpq.
    Require,
    /// TLS, and the certificate must come from a known authority.
    VerifyCa,
    /// TLS, a known authority, and the name of the host must match.
    #[default]
    VerifyFull,
}

impl TlsMode {
    /// The mode's name as libpq's `sslmode`.
    pub fn as_str(self) -> &'static str {
        match self {
            TlsMode::Disable => "disable",
            TlsMode::Require => "require",
            TlsMode::VerifyCa => "verify-ca",
            TlsMode::VerifyFull => "verify-full",
        }
    }
}

/// The ways to prove who we are that a server may ask for; libpq's `require_auth`.
#[expect(clippy::struct_excessive_bools, reason = "a set of four")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthMethods {
    /// The password itself.
    pub password: bool,
    /// A hash of it, from which it can be guessed.
    pub md5: bool,
    pub scram: bool,
    /// None at all.
    pub none: bool,
}

impl AuthMethods {
    const NAMES: [&str; 4] = ["password", "md5", "scram-sha-256", "none"];

    /// What is allowed, or with a `!` before each what is not.
    fn parse(text: &str) -> Result<AuthMethods, EndpointError> {
        let words: Vec<&str> = text.split(',').map(str::trim).collect();
        let negated = words.iter().filter(|word| word.starts_with('!')).count();
        let known = |word: &&str| AuthMethods::NAMES.contains(&word.trim_start_matches('!'));
        if !words.iter().all(known) || ![0, words.len()].contains(&negated) {
            let problem = "`require_auth` is a list of `password`, `md5`, `scram-sha-256` and `none`, or of those that are not allowed, \
                           each with a `!`";
            return Err(EndpointError::new(problem));
        }
        let named = AuthMethods::NAMES.map(|name| words.iter().any(|word| word.trim_start_matches('!') == name));
        let [password, md5, scram, none] = named.map(|named| named == (negated == 0));
        Ok(AuthMethods { password, md5, scram, none })
    }

    /// Those that are not allowed, as libpq is told.
    /// As libpq's `require_auth` says what is not allowed. `None`: everything is.
    pub fn forbidden(self) -> Option<String> {
        let allowed = [self.password, self.md5, self.scram, self.none];
        let forbidden = AuthMethods::NAMES.iter().zip(allowed).filter(|(_, allowed)| !allowed);
        let words: Vec<String> = forbidden.map(|(name, _)| format!("!{name}")).collect();
        (!words.is_empty()).then(|| words.join(","))
    }
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
    /// Certificates of the authorities to trust; the system's when none is given, or when it is the word `system`.
    pub root_cert: Option<PathBuf>,
    pub client_cert: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    /// How the server may have us prove who we are; by `auth_methods` when it is not said.
    pub require_auth: Option<AuthMethods>,
    /// A password file in libpq's format, looked up by the *server* when it subscribes, and by us when no password is given.
    pub passfile: Option<PathBuf>,
}

/// The text is not a connection URL that Greenlight can use. Never contains the password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("read the connection URL: {problem}")]
pub struct EndpointError {
    pub problem: String,
}

impl EndpointError {
    fn new(problem: impl Into<String>) -> EndpointError {
        EndpointError { problem: problem.into() }
    }
}

impl Endpoint {
    /// Reads `postgresql://user:password@host:port/database?sslmode=...`, or libpq's `key=value` form. Every part of the URL
    /// may be percent-encoded. Without a port it is 5432, without a database the user's name, without `sslmode`
    /// `verify-full`, but `disable` for loopback addresses and Unix sockets.
    ///
    /// # Errors
    /// Says what is wrong in terms of the URL's parts, never quoting a value that could be part of a password.
    pub fn parse(text: &str) -> Result<Endpoint, EndpointError> {
        let mut parts = Parts::default();
        match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
            Some(rest) => read_url(rest, &mut parts)?,
            None if text.contains("://") => return Err(EndpointError::new("it must begin with `postgresql://`")),
            None => read_key_values(text, &mut parts)?,
        }
        parts.endpoint()
    }

    /// A server of our own on this machine, such as a throwaway one; without TLS.
    pub fn on_loopback(port: u16, database: &str, user: &str, password: Option<Secret>) -> Endpoint {
        Endpoint {
            host: "127.0.0.1".to_owned(),
            port,
            database: database.to_owned(),
            user: user.to_owned(),
            password,
            tls: TlsMode::Disable,
            root_cert: None,
            client_cert: None,
            client_key: None,
            require_auth: None,
            passfile: None,
        }
    }

    /// A server of our own that is reached by a socket in this folder only.
    pub fn by_socket(folder: &Path, port: u16, database: &str, user: &str, password: Option<Secret>) -> Endpoint {
        Endpoint { host: folder.display().to_string(), ..Endpoint::on_loopback(port, database, user, password) }
    }

    /// The same server and login, another database.
    #[must_use]
    pub fn with_database(&self, database: &str) -> Endpoint {
        Endpoint { database: database.to_owned(), ..self.clone() }
    }

    /// Whether `host` is the folder of a Unix socket.
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    /// How the server may have us prove who we are. Where nothing proves who answers, no password goes there in the clear. Its
    /// md5 hash, from which a weak one can be guessed, goes no further than this machine, where consoles of PgBouncer still
    /// ask for it.
    pub fn auth_methods(&self) -> AuthMethods {
        self.require_auth.unwrap_or_else(|| {
            let verified = !self.is_socket() && matches!(self.tls, TlsMode::VerifyCa | TlsMode::VerifyFull);
            let near = self.is_socket() || is_loopback(&self.host);
            AuthMethods { password: verified, md5: verified || near, scram: true, none: true }
        })
    }

    /// libpq's `key='value'` text with which another server, of version `major`, follows this one. PostgreSQL stores it, readable by superusers:
    /// so a passfile, which lies on the *following* server, goes before the password. **Holds a secret** when there is no
    /// passfile: never log it.
    pub fn to_conninfo_for_subscription(&self, application_name: &str, major: u32) -> Secret {
        let path = |path: &Option<PathBuf>| path.as_deref().map(|path| path.to_string_lossy().into_owned());
        let password = if self.passfile.is_some() { None } else { self.password.as_ref().map(|p| p.expose().to_owned()) };
        let pairs = [
            ("host", Some(self.host.clone())),
            ("port", Some(self.port.to_string())),
            ("dbname", Some(self.database.clone())),
            ("user", Some(self.user.clone())),
            ("passfile", path(&self.passfile)),
            ("password", password),
            ("sslmode", Some(self.tls.as_str().to_owned())),
            ("sslrootcert", path(&self.root_cert)),
            ("sslcert", path(&self.client_cert)),
            ("sslkey", path(&self.client_key)),
            ("require_auth", self.auth_methods().forbidden().filter(|_| major >= 16)),
            ("application_name", Some(application_name.to_owned())),
            // Without it a subscriber hangs for minutes on a publisher that has gone without a word.
            ("connect_timeout", Some("10".to_owned())),
        ];
        let quoted = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
        let words = pairs.iter().filter_map(|(key, value)| Some(format!("{key}='{}'", quoted(value.as_deref()?))));
        Secret::new(words.collect::<Vec<String>>().join(" "))
    }

    /// The authorities' file, unless the system's are meant.
    pub fn root_cert_file(&self) -> Option<&Path> {
        self.root_cert.as_deref().filter(|path| *path != Path::new("system"))
    }
}

/// For people: never the password.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "{}@[{}]:{}/{}", self.user, self.host, self.port, self.database)
        } else {
            write!(f, "{}@{}:{}/{}", self.user, self.host, self.port, self.database)
        }
    }
}

const KNOWN: &str = "known: host, port, dbname, user, password, sslmode, sslrootcert, sslcert, sslkey, require_auth and passfile";

/// libpq's own that are not taken here.
const OF_LIBPQ: &str = "application_name channel_binding client_encoding connect_timeout fallback_application_name gssdelegation \
    gssencmode gsslib hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname load_balance_hosts \
    max_protocol_version min_protocol_version oauth_client_id oauth_client_secret oauth_issuer oauth_scope options \
    replication requirepeer scram_client_key scram_server_key service servicefile ssl_max_protocol_version \
    ssl_min_protocol_version sslcertmode sslcompression sslcrl sslcrldir sslkeylogfile sslnegotiation sslpassword sslsni \
    target_session_attrs tcp_user_timeout tty";

/// What has been read so far, by libpq's names.
#[derive(Default)]
struct Parts {
    host: Option<String>,
    port: Option<u16>,
    database: Option<String>,
    user: Option<String>,
    password: Option<Secret>,
    tls: Option<TlsMode>,
    root_cert: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    require_auth: Option<AuthMethods>,
    passfile: Option<PathBuf>,
}

impl Parts {
    fn set(&mut self, key: &str, value: String) -> Result<(), EndpointError> {
        match key {
            "host" => self.host = Some(one_host(value)?),
            "port" => self.port = Some(port(&value)?),
            "dbname" => self.database = Some(value),
            "user" => self.user = Some(value),
            "password" => self.password = Some(Secret::new(value)),
            "sslmode" => self.tls = Some(tls_mode(&value)?),
            "sslrootcert" => self.root_cert = Some(value.into()),
            "sslcert" => self.client_cert = Some(value.into()),
            "sslkey" => self.client_key = Some(value.into()),
            "require_auth" => self.require_auth = Some(AuthMethods::parse(&value)?),
            "passfile" => self.passfile = Some(value.into()),
            // No other is repeated: what stands before a `=` may be a part of a password.
            _ if OF_LIBPQ.split(' ').any(|known| known == key) => {
                return Err(EndpointError::new(format!("the parameter `{key}` is not known here ({KNOWN})")));
            }
            _ => return Err(EndpointError::new(format!("it holds a parameter that is not known here ({KNOWN})"))),
        }
        Ok(())
    }

    fn endpoint(self) -> Result<Endpoint, EndpointError> {
        let given = |value: Option<String>, what: &str| {
            value.filter(|value| !value.is_empty()).ok_or_else(|| EndpointError::new(format!("it names no {what}")))
        };
        let host = given(self.host, "host")?;
        let user = given(self.user, "user")?;
        if self.client_cert.is_some() != self.client_key.is_some() {
            return Err(EndpointError::new("`sslcert` and `sslkey` go together"));
        }
        // As with libpq, a Unix socket has no TLS, whatever is asked for.
        let tls = if host.starts_with('/') {
            TlsMode::Disable
        } else {
            self.tls.unwrap_or(if is_loopback(&host) { TlsMode::Disable } else { TlsMode::VerifyFull })
        };
        // By libpq's rules: an authority that is named is one that is asked.
        let of_system = self.root_cert.as_deref() == Some(Path::new("system"));
        let tls = match tls {
            TlsMode::Require | TlsMode::VerifyCa if of_system => {
                return Err(EndpointError::new(
                    "with `sslrootcert=system` `sslmode` must be `verify-full`: anybody gets a certificate there",
                ));
            }
            TlsMode::Require if self.root_cert.is_some() => TlsMode::VerifyCa,
            tls => tls,
        };
        Ok(Endpoint {
            port: self.port.unwrap_or(5432),
            database: self.database.filter(|name| !name.is_empty()).unwrap_or_else(|| user.clone()),
            password: self.password.filter(|password| !password.expose().is_empty()),
            host,
            user,
            tls,
            root_cert: self.root_cert,
            client_cert: self.client_cert,
            client_key: self.client_key,
            require_auth: self.require_auth,
            passfile: self.passfile,
        })
    }
}

fn read_url(rest: &str, parts: &mut Parts) -> Result<(), EndpointError> {
    let (before, query) = rest.split_once('?').map_or((rest, None), |(before, query)| (before, Some(query)));
    let (authority, database) = before.split_once('/').map_or((before, None), |(a, database)| (a, Some(database)));
    // The last `@`, so that one in the password need not be encoded.
    let (login, address) = authority.rsplit_once('@').map_or((None, authority), |(login, host)| (Some(login), host));
    if let Some(login) = login {
        let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
        parts.set("user", decode(user, "the user")?)?;
        if let Some(password) = password {
            parts.set("password", decode(password, "the password")?)?;
        }
    }
    // What stands there would be shown as the name of a host or a database: it may be the rest of a password.
    if rest[authority.len()..].contains('@') {
        let problem =
            "an `@` stands behind the host; write it as `%40`, and in the password `/` as `%2F`, `?` as `%3F` and `%` as `%25`";
        return Err(EndpointError::new(problem));
    }
    let (host, port) = host_and_port(address)?;
    if !host.is_empty() {
        parts.set("host", decode(host, "the host")?)?;
    }
    if let Some(port) = port {
        parts.set("port", decode(port, "the port")?)?;
    }
    if let Some(database) = database {
        parts.set("dbname", decode(database, "the database")?)?;
    }
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| EndpointError::new("after `?` it needs `name=value` pairs with `&` between them"))?;
        parts.set(&decode(key, "a parameter's name")?, decode(value, "a parameter")?)?;
    }
    Ok(())
}

fn host_and_port(address: &str) -> Result<(&str, Option<&str>), EndpointError> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or_else(|| EndpointError::new("`[` is not closed by `]`"))?;
        return match after.strip_prefix(':') {
            None if after.is_empty() => Ok((host, None)),
            Some(port) => Ok((host, Some(port))),
            None => Err(EndpointError::new("after `]` comes `:` and the port")),
        };
    }
    match address.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            Err(EndpointError::new("there is more than one `:` in the address; write an IPv6 address as `[::1]`"))
        }
        Some((host, port)) => Ok((host, Some(port).filter(|port| !port.is_empty()))),
        None => Ok((address, None)),
    }
}

/// libpq's `key=value key='quoted value'`, in which a backslash takes the next character as it is.
fn read_key_values(text: &str, parts: &mut Parts) -> Result<(), EndpointError> {
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (key, after) = rest
            .split_once('=')
            .ok_or_else(|| EndpointError::new("it is neither `postgresql://...` nor `host=... user=... dbname=...`"))?;
        let after = after.trim_start();
        let quoted = after.starts_with('\'');
        let (mut value, mut chars) = (String::new(), after.char_indices().skip(usize::from(quoted)));
        let end = loop {
            match chars.next() {
                Some((_, '\\')) => value.extend(chars.next().map(|(_, next)| next)),
                Some((at, '\'')) if quoted => break at + 1,
                Some((at, space)) if !quoted && space.is_whitespace() => break at,
                Some((_, other)) => value.push(other),
                None if quoted => return Err(EndpointError::new("a quote is not closed")),
                None => break after.len(),
            }
        };
        // What stands before the `=` may be the end of a password with a space in it: it is not repeated.
        if !KNOWN.split([' ', ',']).skip(1).any(|known| known == key.trim()) {
            let problem = format!("it holds a parameter that is not known here, or a space outside of quotes ({KNOWN})");
            return Err(EndpointError::new(problem));
        }
        parts.set(key.trim(), value)?;
        rest = after[end..].trim_start();
    }
    Ok(())
}

/// `what` is named in the error in place of the text, which may be a password.
fn decode(text: &str, what: &str) -> Result<String, EndpointError> {
    let wrong = |problem: &str| EndpointError::new(format!("{what} {problem}"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        bytes.push(if byte == b'%' {
            let (high, low) = (digit(rest.next()), digit(rest.next()));
            let (Some(high), Some(low)) = (high, low) else {
                return Err(wrong("holds a `%` without two hexadecimal digits after it; write `%` itself as `%25`"));
            };
            u8::try_from(high * 16 + low).unwrap_or_default()
        } else {
            byte
        });
    }
    if bytes.contains(&0) {
        return Err(wrong("holds a zero byte"));
    }
    String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8"))
}

fn one_host(host: String) -> Result<String, EndpointError> {
    if host.contains(',') {
        return Err(EndpointError::new("it names several hosts; Greenlight must know which server it talks to: name one"));
    }
    Ok(host)
}

fn port(text: &str) -> Result<u16, EndpointError> {
    // The text is not repeated: in a URL without a host it would be the password.
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| EndpointError::new("the port is not a number from 1 to 65535"))
}

fn tls_mode(text: &str) -> Result<TlsMode, EndpointError> {
    match text {
        "disable" => Ok(TlsMode::Disable),
        "require" => Ok(TlsMode::Require),
        "verify-ca" => Ok(TlsMode::VerifyCa),
        "verify-full" => Ok(TlsMode::VerifyFull),
        "allow" | "prefer" => Err(EndpointError::new(format!(
            "`sslmode={text}` falls back to plain text unasked; write `verify-full`, `verify-ca`, `require` or `disable`"
        ))),
        _ => Err(EndpointError::new("`sslmode` is one of `disable`, `require`, `verify-ca` and `verify-full`")),
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        Endpoint::parse(text).unwrap_err().problem
    }

    #[test]
    fn every_part_of_a_url_may_be_encoded() {
        let endpoint = Endpoint::parse(
            "postgresql://us%40er:p%40ss%3Aw%2Fo%25rd%20x@db.example:6543/my%20%22shop%22%20%C3%A9?sslmode=require",
        )
        .unwrap();
        assert_eq!(endpoint.user, "us@er");
        assert_eq!(endpoint.password.as_ref().unwrap().expose(), "p@ss:w/o%rd x");
        assert_eq!((endpoint.host.as_str(), endpoint.port), ("db.example", 6543));
        assert_eq!(endpoint.database, "my \"shop\" é");
        assert_eq!(endpoint.tls, TlsMode::Require);
        assert_eq!(endpoint.to_string(), "us@er@db.example:6543/my \"shop\" é");
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let endpoint = Endpoint::parse("postgres://app@db1").unwrap();
        assert_eq!((endpoint.port, endpoint.database.as_str(), endpoint.password), (5432, "app", None));
        for (url, tls) in [
            ("postgresql://a@db1", TlsMode::VerifyFull),
            ("postgresql://a@10.0.0.1", TlsMode::VerifyFull),
            ("postgresql://a@127.0.0.9", TlsMode::Disable),
            ("postgresql://a@[::1]:5433/x", TlsMode::Disable),
            ("postgresql://a@LocalHost/x", TlsMode::Disable),
            ("postgresql://a@localhost/x?sslmode=verify-full", TlsMode::VerifyFull),
            ("postgresql://a@/x?host=/var/run/postgresql", TlsMode::Disable),
            ("postgresql://a@%2Fvar%2Frun/x?sslmode=verify-full", TlsMode::Disable),
        ] {
            assert_eq!(Endpoint::parse(url).unwrap().tls, tls, "{url}");
        }
    }

    #[test]
    fn an_at_sign_and_a_colon_in_a_password_need_no_encoding() {
        let endpoint = Endpoint::parse("postgresql://app:a@b:c@db1/x").unwrap();
        assert_eq!((endpoint.user.as_str(), endpoint.password.unwrap().expose()), ("app", "a@b:c"));
    }

    #[test]
    fn the_key_value_form_is_read_too() {
        let endpoint =
            Endpoint::parse(r"host=db1 port = 5433 user='we\'ird' password='a b\\c' dbname=x sslmode=verify-ca").unwrap();
        assert_eq!((endpoint.user.as_str(), endpoint.port), ("we'ird", 5433));
        assert_eq!(endpoint.password.unwrap().expose(), r"a b\c");
        assert_eq!(endpoint.tls, TlsMode::VerifyCa);
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_reason() {
        assert!(problem("mysql://a@b").contains("postgresql://"));
        assert!(problem("postgresql://db1/x").contains("no user"));
        assert!(problem("postgresql://a@/x").contains("no host"));
        assert!(problem("postgresql://a@h1,h2/x").contains("several hosts"));
        assert!(problem("postgresql://a@h?sslmode=prefer").contains("falls back to plain text"));
        assert!(problem("postgresql://a@h?sslmode=allow").contains("falls back to plain text"));
        assert!(problem("postgresql://a@h?sslmode=on").contains("one of"));
        assert!(problem("postgresql://a@h?target_session_attrs=any").contains("`target_session_attrs`"));
        assert!(problem("postgresql://a@h:0/x").contains("1 to 65535"));
        assert!(problem("postgresql://a@h?sslcert=/c").contains("go together"));
        assert!(problem("postgresql://a@h/x%zz").contains("the database holds a `%`"));
        assert!(problem("shop").contains("neither"));
    }

    #[test]
    fn no_error_contains_the_password() {
        for url in [
            "postgresql://a:s3cret%zz@h/x",
            "postgresql://a:s3cret%00@h/x",
            "postgresql://a:s3cret%ff@h/x",
            "postgresql://a:s3cret/rest@h/x",
            "postgresql://a:s3cret?rest@h/x",
            "postgresql://a:x?s3cret@h/x",
            "postgresql://a:1?s3cret=1@h/x",
            "postgresql://a:b@c?s3cret=1@h/x",
            "postgresql://a:b@c/s3cret@h/x",
            "postgresql://a:b@h/x?sslmode=s3cret",
            "postgresql://a:b@h:s3cret/x",
            "postgresql://a:b@h/x?port=s3cret",
            "postgresql://a:b@h,s3cret/x",
            "postgresql://a:b@[s3cret/x",
            "postgresql://a:b@h/x?s3cret",
            "postgresql://a:b@h/x?s3cret=1",
            "postgresql://a:b@h/x?%73s3cret=1",
            "postgresql://a:b@c@s3cret:1:2/x",
            "host=h user=a password=1 port=s3cret",
            "host=h user=a password='1's3cret'",
            "mysql://a:s3cret@h/x",
            "postgresql://a:s3cret",
            "host=h user=a password='s3cret",
            "host=h user=a password=1 s3cret=2",
            "and s3cret=2",
            "s3cret",
        ] {
            let said = Endpoint::parse(url).map_or_else(|error| error.to_string(), |endpoint| format!("{endpoint} {endpoint:?}"));
            assert!(!said.contains("s3cret"), "{url}: {said}");
        }
        let endpoint = Endpoint::parse("postgresql://a:s3cret@h/x").unwrap();
        assert!(!format!("{endpoint} {endpoint:?}").contains("s3cret"));
    }

    #[test]
    fn a_subscription_s_conninfo_is_quoted_and_prefers_the_passfile() {
        let endpoint = Endpoint::parse(r"postgresql://o'brien:p%20\'x@db1/my%20db?sslrootcert=/ca.pem").unwrap();
        let text = endpoint.to_conninfo_for_subscription("greenlight_r1_fwd", 16);
        assert_eq!(
            text.expose(),
            r"host='db1' port='5432' dbname='my db' user='o\'brien' password='p \\\'x' sslmode='verify-full' sslrootcert='/ca.pem' application_name='greenlight_r1_fwd' connect_timeout='10'"
        );
        let with_file = Endpoint { passfile: Some("/etc/pass".into()), ..endpoint };
        let text = with_file.to_conninfo_for_subscription("s", 15);
        assert!(text.expose().contains("passfile='/etc/pass'") && !text.expose().contains("password="));
    }

    #[test]
    fn a_named_authority_is_asked_as_libpq_would() {
        let tls = |text: &str| Endpoint::parse(&format!("postgresql://a@h/x?{text}")).map(|endpoint| endpoint.tls);
        assert_eq!(tls("sslmode=require&sslrootcert=/ca.pem"), Ok(TlsMode::VerifyCa));
        assert_eq!(tls("sslrootcert=/ca.pem&sslmode=require"), Ok(TlsMode::VerifyCa));
        assert_eq!(tls("sslmode=require"), Ok(TlsMode::Require));
        assert_eq!(tls("sslrootcert=system"), Ok(TlsMode::VerifyFull));
        for weak in ["require", "verify-ca"] {
            assert!(tls(&format!("sslrootcert=system&sslmode={weak}")).unwrap_err().problem.contains("verify-full"));
        }
        for refused in ["sslcrl=/c", "channel_binding=require", "sslnegotiation=direct", "requirepeer=postgres"] {
            assert!(tls(refused).unwrap_err().problem.contains("is not known here"), "{refused}");
        }
    }

    #[test]
    fn what_a_server_may_ask_for_is_said_as_to_libpq() {
        let text = |url: &str| Endpoint::parse(url).unwrap().to_conninfo_for_subscription("s", 16).expose().to_owned();
        assert!(!text("postgresql://a@h/x").contains("require_auth"));
        assert!(text("postgresql://a@h/x?sslmode=require").contains("require_auth='!password,!md5'"));
        assert!(text("postgresql://a@127.0.0.1/x").contains("require_auth='!password'"));
        assert!(text("postgresql://a@h/x?require_auth=scram-sha-256").contains("require_auth='!password,!md5,!none'"));
        assert!(text("postgresql://a@h/x?require_auth=!none,!md5").contains("require_auth='!md5,!none'"));
        let older = Endpoint::parse("postgresql://a@127.0.0.1/x").unwrap().to_conninfo_for_subscription("s", 15);
        assert!(!older.expose().contains("require_auth"), "older releases of libpq do not know it");
        for wrong in ["gss", "password,!md5", "", "!"] {
            assert!(problem(&format!("postgresql://a@h/x?require_auth={wrong}")).contains("is a list of"), "{wrong}");
        }
    }

    #[test]
    fn another_database_of_the_same_server_keeps_the_login() {
        let endpoint = Endpoint::parse("postgresql://a:b@h/x").unwrap();
        let other = endpoint.with_database("postgres");
        assert_eq!((other.database.as_str(), other.password), ("postgres", endpoint.password));
    }
}
