//! How PostgreSQL's own programs and a standby are told where a server is: libpq's connection strings and password files.
//!
//! **Invariant:** a connection string never holds a password; that is in the password file that it names.

use crate::word::{Endpoint, PortError, TlsMode};
use std::path::{Path, PathBuf};

/// Where distributions keep the authorities that the machine trusts. Older releases of libpq know no way to say "the
/// system's".
const SYSTEM_ROOTS: [&str; 3] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// The connection string for `to`, for a replication connection that calls itself `application_name`, by a program or server of
/// version `major` or newer.
pub(crate) fn replication(to: &Endpoint, application_name: &str, passfile: Option<&Path>, major: u32) -> String {
    let path = |path: Option<&Path>| path.map(|path| path.display().to_string());
    let parts = [
        ("host", Some(to.host.clone())),
        ("port", Some(to.port.to_string())),
        ("user", Some(to.user.clone())),
        ("sslmode", Some(to.tls.as_str().to_owned())),
        ("sslrootcert", path(root_cert(to).as_deref())),
        ("sslcert", path(to.client_cert.as_deref())),
        ("sslkey", path(to.client_key.as_deref())),
        ("passfile", path(passfile)),
        ("require_auth", to.auth_methods().forbidden().filter(|_| major >= 16)),
        ("connect_timeout", Some("10".to_owned())),
        ("application_name", Some(application_name.to_owned())),
    ];
    let written = parts.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", quoted(&value?))));
    written.collect::<Vec<_>>().join(" ")
}

/// The authorities by which the server is verified, where it is.
pub(crate) fn root_cert(to: &Endpoint) -> Option<PathBuf> {
    let system = || SYSTEM_ROOTS.iter().map(PathBuf::from).find(|path| path.is_file());
    let verified = matches!(to.tls, TlsMode::VerifyCa | TlsMode::VerifyFull);
    if verified { to.root_cert_file().map(Path::to_owned).or_else(system) } else { None }
}

/// The content of a password file for one server.
///
/// # Errors
/// `Refused` for a password that such a file cannot hold.
pub(crate) fn passfile(password: &str) -> Result<String, PortError> {
    if password.contains(['\n', '\r', '\0']) {
        return Err(PortError::refused("write the password file").because("the password holds a line break"));
    }
    Ok(format!("*:*:*:*:{}\n", password.replace('\\', "\\\\").replace(':', "\\:")))
}

fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word::Secret;

    #[test]
    fn a_connection_string_is_quoted_and_holds_no_password() {
        let endpoint = Endpoint {
            host: "db 1".to_owned(),
            port: 5433,
            database: "shop".to_owned(),
            user: r"o'ne\two".to_owned(),
            password: Some(Secret::new("sesame")),
            tls: TlsMode::Disable,
            root_cert: None,
            client_cert: None,
            client_key: None,
            require_auth: None,
            passfile: None,
        };
        assert!(replication(&endpoint, "slot", None, 16).contains("require_auth='!"));
        assert_eq!(
            replication(&endpoint, "slot", Some(Path::new("/a b")), 15),
            r"host='db 1' port='5433' user='o\'ne\\two' sslmode='disable' passfile='/a b' connect_timeout='10' application_name='slot'"
        );
    }

    #[test]
    fn a_password_file_escapes_what_it_must() {
        assert_eq!(passfile(r"a:b\c").unwrap(), "*:*:*:*:a\\:b\\\\c\n");
        assert!(passfile("a\nb").is_err());
    }
}
