//! libpq's password file: `host:port:database:user:password` on each line, `*` for anything, the first match counts.

use crate::word::{Endpoint, PortError, Secret};
use std::{fs, io::Read, os::unix::fs::PermissionsExt, path::Path};

/// The password that the file holds for this endpoint; `None` when no line matches.
///
/// # Errors
/// `Refused` when the file cannot be read, or when others than its owner may read it, as libpq does.
pub(crate) fn password(path: &Path, endpoint: &Endpoint) -> Result<Option<Secret>, PortError> {
    let attempted = || PortError::refused(format!("read the passfile `{}`", path.display()));
    let mut file = fs::File::open(path).map_err(|e| attempted().because(e))?;
    let meta = file.metadata().map_err(|e| attempted().because(e))?;
    if !meta.is_file() {
        return Err(attempted().because("it is not a plain file"));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(attempted().because("others than its owner may read it").hint(format!("try: chmod 0600 {}", path.display())));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|e| attempted().because(e))?;
    Ok(find(&text, endpoint))
}

fn find(text: &str, endpoint: &Endpoint) -> Option<Secret> {
    // libpq looks a Unix socket in its default folder up as `localhost`, and so do the files that people have.
    let host = if endpoint.is_socket() { "localhost" } else { &endpoint.host };
    let port = endpoint.port.to_string();
    let matches = |field: &str, value: &str| field == "*" || unescape(field) == value;
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let [file_host, file_port, database, user, password] = fields.as_slice() else { return None };
        let host_matches = matches(file_host, host) || (endpoint.is_socket() && matches(file_host, &endpoint.host));
        (host_matches && matches(file_port, &port) && matches(database, &endpoint.database) && matches(user, &endpoint.user))
            .then(|| Secret::new(unescape(password)))
    })
}

/// The first five fields, still escaped. The password ends at the next plain colon or at the end of the line.
fn fields(line: &str) -> Vec<&str> {
    let (mut fields, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, byte) in line.bytes().enumerate() {
        if byte == b':' && !escaped {
            fields.push(&line[start..at]);
            start = at + 1;
        }
        escaped = byte == b'\\' && !escaped;
    }
    fields.push(&line[start..]);
    fields.truncate(5);
    fields
}

fn unescape(field: &str) -> String {
    let mut chars = field.chars();
    let mut text = String::new();
    while let Some(next) = chars.next() {
        text.extend(if next == '\\' { chars.next() } else { Some(next) });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, url: &str) -> Option<String> {
        find(text, &Endpoint::parse(url).unwrap()).map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn the_first_line_that_matches_counts() {
        let text = "# comment\nother:*:*:*:no\nh:5432:x:a:first\nh:*:*:*:second\n*:*:*:*:last\n";
        assert_eq!(found(text, "postgresql://a@h/x").unwrap(), "first");
        assert_eq!(found(text, "postgresql://a@h/y").unwrap(), "second");
        assert_eq!(found(text, "postgresql://a@other:1/y").unwrap(), "no");
        assert_eq!(found(text, "postgresql://b@g/y").unwrap(), "last");
        assert_eq!(found("h:5432:x:a:first", "postgresql://b@h/x"), None);
        assert_eq!(found("half:a:line", "postgresql://b@h/x"), None);
    }

    #[test]
    fn colons_and_backslashes_are_escaped() {
        assert_eq!(found(r"h:5432:my\:db:a:p\:w\\d", "postgresql://a@h/my%3Adb").unwrap(), r"p:w\d");
        assert_eq!(found(r"\*:5432:x:a:p", "postgresql://a@h/x"), None);
    }

    #[test]
    fn a_socket_is_found_as_localhost() {
        assert_eq!(found("localhost:*:*:*:p", "postgresql://a@/x?host=/tmp").unwrap(), "p");
        assert_eq!(found("/tmp:*:*:*:p", "postgresql://a@/x?host=/tmp").unwrap(), "p");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pass");
        fs::write(&path, "*:*:*:*:p\n").unwrap();
        let endpoint = Endpoint::parse("postgresql://a@h/x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(password(&path, &endpoint).unwrap_err().hint.unwrap().contains("chmod 0600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(password(&path, &endpoint).unwrap().unwrap().expose(), "p");
        assert!(password(&folder.path().join("none"), &endpoint).is_err());
    }
}
