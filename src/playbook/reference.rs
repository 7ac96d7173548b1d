//! What `${env:NAME}` and `${file:/path}` in a URL stand for.
//!
//! **Invariant:** a value that was looked up is in no message.

use super::problem::{Flaw, reason};
use crate::word::{Endpoint, Reference, Secret, Template, shell_word};
use std::{fs::File, io::Read, ops::Range, os::unix::fs::MetadataExt, path::Path};

/// The environment of the process, or a test's stand-in.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The URL with its references replaced. A value inside a URL is percent-encoded, so that a password may hold any
/// character; a template that is one single reference stands for a whole URL, which is taken as it is.
///
/// # Errors
/// Says which reference leads nowhere, and why.
pub fn resolve_url(url: &Template, environment: Environment<'_>) -> Result<Secret, String> {
    let whole = is_one_reference(&url.0);
    url.resolve(|reference| {
        let value = look_up(reference, environment)?;
        Ok(if whole { value } else { percent_encoded(&value) })
    })
}

/// A connection URL of a playbook as far as it can be read now.
pub(super) struct ReadUrl {
    /// `None`: what is wrong was reported.
    pub endpoint: Option<Endpoint>,
    pub flaws: Vec<Flaw>,
}

pub(super) fn read_url(text: &str, environment: Environment<'_>) -> ReadUrl {
    let references = match references(text) {
        Ok(references) => references,
        Err(flaw) => return ReadUrl { endpoint: None, flaws: vec![flaw] },
    };
    let mut flaws: Vec<Flaw> = references
        .iter()
        .filter_map(|(part, reference)| look_up(reference, environment).err().map(|what| missing(what, reference, part)))
        .collect();
    let complete = flaws.is_empty();
    let whole = is_one_reference(text);
    if whole && !flaws.is_empty() {
        return ReadUrl { endpoint: None, flaws };
    }
    if !whole && !text.starts_with("postgresql://") && !text.starts_with("postgres://") {
        let flaw = Flaw::new("this is no connection URL").help(
            "write `postgresql://USER:${env:NAME}@HOST:PORT/DATABASE`, or a single reference to a file or variable that holds such a URL",
        );
        return ReadUrl { endpoint: None, flaws: vec![flaw] };
    }
    if let Some(part) = literal_password(text, &references) {
        let flaw = Flaw::new("a password stands in the playbook, in the clear")
            .help("keep it in a file or in the environment and write `${file:/path/to/it}` or `${env:NAME}` in its place");
        flaws.push(flaw.part(part));
    }
    // Where a reference leads nowhere, something that fits in every place stands for it, and only the form is checked.
    let resolved = Template(text.to_owned()).resolve(|reference| {
        let value = look_up(reference, environment).unwrap_or_else(|_| "1".to_owned());
        Ok(if whole { value } else { percent_encoded(&value) })
    });
    match resolved.map(|url| Endpoint::parse(url.expose())) {
        Ok(Ok(endpoint)) => ReadUrl { endpoint: complete.then_some(endpoint), flaws },
        Ok(Err(error)) => {
            let flaw = Flaw::new(format!("this connection URL cannot be used: {}", error.problem))
                .help("write it as `postgresql://USER:${env:NAME}@HOST:PORT/DATABASE?sslmode=verify-full`");
            ReadUrl { endpoint: None, flaws: flaws.into_iter().chain([flaw]).collect() }
        }
        Err(what) => ReadUrl { endpoint: None, flaws: vec![Flaw::new(what)] },
    }
}

fn missing(what: String, reference: &Reference, part: &Range<usize>) -> Flaw {
    let help = match reference {
        Reference::Env(name) => format!("set it before Greenlight is started, such as `export {name}=...`"),
        Reference::File(_) => {
            "write the absolute path of a file that this user can read and that holds only the value".to_owned()
        }
    };
    Flaw::new(what).help(help).part(part.clone())
}

fn is_one_reference(text: &str) -> bool {
    text.starts_with("${") && text.find('}') == Some(text.len() - 1)
}

/// The references in the text and where they stand.
fn references(text: &str) -> Result<Vec<(Range<usize>, Reference)>, Flaw> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = text[at..].find("${").map(|start| at + start) {
        let end = text[start..].find('}').map_or(text.len(), |end| start + end + 1);
        let flaw = |what: String| {
            Flaw::new(what).help("write `${env:NAME}` or `${file:/path}`; a `$` of the value itself as `%24`").part(start..end)
        };
        let mut inner = Template(text[start..end].to_owned()).references().map_err(flaw)?;
        found.extend(inner.pop().map(|reference| (start..end, reference)));
        at = end;
    }
    Ok(found)
}

/// Where a password is written out, in whole or in part: between user and host, or as a parameter.
fn literal_password(text: &str, references: &[(Range<usize>, Reference)]) -> Option<Range<usize>> {
    // Whatever a reference holds is not part of the URL's own form.
    let mut plain = text.to_owned();
    for (part, _) in references {
        plain.replace_range(part.clone(), &"_".repeat(part.len()));
    }
    let begin = plain.find("://")? + 3;
    let user_info = plain[begin..].rsplit_once('@').map_or("", |(before, _)| before);
    let in_login =
        user_info.split_once(':').map(|(user, password)| (begin + user.len() + 1)..(begin + user.len() + 1 + password.len()));
    let in_query = plain.find("password=").map(|at| {
        let value = at + "password=".len();
        value..plain[value..].find('&').map_or(plain.len(), |end| value + end)
    });
    let covered = |part: &Range<usize>| references.iter().any(|(reference, _)| reference == part);
    in_login.into_iter().chain(in_query).find(|part| !part.is_empty() && !covered(part))
}

/// Whether a password, or a part of one, is written out in a URL or in libpq's `key=value` form.
pub fn holds_password(text: &str) -> bool {
    let Ok(references) = references(text) else { return false };
    if is_one_reference(text) {
        return false;
    }
    // What is read of it with another value for all references must be that value, and nothing of its own.
    let is_only = |digit: char| {
        let read = Template(text.to_owned()).resolve(|_| Ok(digit.to_string()));
        let password = read.ok().and_then(|text| Endpoint::parse(text.expose()).ok()).and_then(|endpoint| endpoint.password);
        password.is_none_or(|password| password.expose().chars().all(|c| c == digit))
    };
    literal_password(text, &references).is_some() || !is_only('1') || !is_only('2')
}

/// The value, or why there is none.
fn look_up(reference: &Reference, environment: Environment<'_>) -> Result<String, String> {
    let value = match reference {
        Reference::Env(name) => environment(name).ok_or_else(|| format!("the variable `{name}` is not set"))?,
        Reference::File(path) if !path.starts_with('/') => return Err(format!("`{path}` is no absolute path")),
        Reference::File(path) => {
            let text = read_secret(Path::new(path))?;
            let line = text.strip_suffix('\n').unwrap_or(&text);
            line.strip_suffix('\r').unwrap_or(line).to_owned()
        }
    };
    match (value.is_empty(), reference) {
        (false, _) => Ok(value),
        (true, Reference::Env(name)) => Err(format!("the variable `{name}` is empty")),
        (true, Reference::File(path)) => Err(format!("the file `{path}` is empty")),
    }
}

/// The content of a file that holds a secret: only its owner may read or write it, as libpq asks of its own. A link counts
/// as what it leads to, and nobody else may be able to put another file there.
fn read_secret(path: &Path) -> Result<String, String> {
    let name = path.display();
    let unreadable = |error: std::io::Error| format!("`{name}` cannot be read: {}", reason(&error));
    let mut file = File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(format!("`{name}` is no plain file"));
    }
    let mode = meta.mode() & 0o7777;
    // As libpq has it for keys: one of root's may be lent to a group.
    let forbidden = if meta.uid() == 0 { 0o037 } else { 0o077 };
    if mode & forbidden != 0 {
        return Err(format!(
            "`{name}` can be read or written by others than its owner (mode {mode:04o}); try `chmod 0600 {}`",
            shell_word(&name.to_string())
        ));
    }
    let target = path.canonicalize().map_err(unreadable)?;
    for folder in [path.parent(), target.parent()].into_iter().flatten() {
        let mode = std::fs::metadata(folder).map_err(unreadable)?.mode();
        if mode & 0o1002 == 0o0002 {
            let folder = folder.display().to_string();
            return Err(format!(
                "anybody can put another file into the place of `{name}`; try `chmod o-w {}`",
                shell_word(&folder)
            ));
        }
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

fn percent_encoded(value: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    value.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "PASSWORD" => Some("p@ss/w:?#%ü".to_owned()),
            "URL" => Some("postgresql://ada:s%40ecret@db1/shop".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn whats(text: &str) -> Vec<String> {
        read_url(text, &environment).flaws.into_iter().map(|flaw| flaw.what).collect()
    }

    #[test]
    fn a_password_of_any_characters_comes_through_a_reference() {
        let url = Template("postgresql://ada:${env:PASSWORD}@db1:6000/shop".to_owned());
        let endpoint = Endpoint::parse(resolve_url(&url, &environment).unwrap().expose()).unwrap();
        assert_eq!((endpoint.password.unwrap().expose(), endpoint.host.as_str()), ("p@ss/w:?#%ü", "db1"));
        let whole = resolve_url(&Template("${env:URL}".to_owned()), &environment).unwrap();
        assert_eq!(Endpoint::parse(whole.expose()).unwrap().password.unwrap().expose(), "s@ecret");
    }

    #[test]
    fn a_password_from_a_file_is_its_content_without_the_line_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "geheim\n").unwrap();
        let url = Template(format!("postgresql://ada:${{file:{}}}@db1/shop", file.path().display()));
        assert_eq!(resolve_url(&url, &environment).unwrap().expose(), "postgresql://ada:geheim@db1/shop");
    }

    #[test]
    fn a_file_that_others_can_read_or_write_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("pass word"), folder.path().join("link"));
        std::fs::write(&path, "geheim\n").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let set = |path: &Path, mode| std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let said = |path: &Path| resolve_url(&Template(format!("postgresql://a:${{file:{}}}@h/d", path.display())), &environment);
        for mode in [0o644, 0o660, 0o602, 0o606] {
            set(&path, mode);
            for name in [&path, &link] {
                let why = said(name).unwrap_err();
                assert!(why.contains(&format!("(mode {mode:04o}); try `chmod 0600 ")), "{why}");
                assert!(!why.contains("geheim"));
            }
        }
        set(&path, 0o600);
        assert!(said(&path).is_ok() && said(&link).is_ok());
        set(folder.path(), 0o777);
        assert!(said(&path).unwrap_err().contains("chmod o-w"));
        set(folder.path(), 0o1777);
        assert!(said(&path).is_ok(), "with the sticky bit only its owner can replace it");
        assert!(said(folder.path()).unwrap_err().contains("no plain file"));
    }

    #[test]
    fn a_password_in_the_clear_is_found_in_every_place() {
        let clear = [
            "postgresql://a:b@h/d",
            "postgresql://a:b${env:PASSWORD}@h/d",
            "postgresql://a:b:@c@h/d",
            "postgresql://a@h/d?password=b",
        ];
        for url in clear {
            assert_eq!(whats(url)[0], "a password stands in the playbook, in the clear", "{url}");
        }
        let fine = [
            "postgresql://a@h/d",
            "postgresql://a:${env:PASSWORD}@h:1/d",
            "postgresql://a@h/d?password=${env:PASSWORD}",
            "${env:URL}",
        ];
        for url in fine {
            assert_eq!(whats(url), [""; 0], "{url}");
        }
    }

    #[test]
    fn a_password_that_is_typed_is_found_in_every_form() {
        let clear = [
            "postgresql://a:b@h/d",
            "postgresql://a:b%zz@h/d",
            "postgresql://a:1@h/d",
            "postgresql://a:${env:X}b@h/d",
            "postgresql://a@h/d?password=b",
            "postgresql://a@h/d?pass%77ord=b",
            "host=h user=a password=b",
            "host=h user=a password = '${env:X}b'",
        ];
        for url in clear {
            assert!(holds_password(url), "{url}");
        }
        let fine = [
            "postgresql://a@h/d",
            "postgresql://a:${env:X}@h:1/d",
            "postgresql://a:${env:X}@h:${env:PORT}/d",
            "${file:/url}",
            "host=h user=a password=${env:X}",
            "host=h user=a passfile=/password",
        ];
        for url in fine {
            assert!(!holds_password(url), "{url}");
        }
    }

    #[test]
    fn a_reference_that_leads_nowhere_is_said_to() {
        let cases = [
            ("postgresql://a:${env:NO}@h/d", "the variable `NO` is not set"),
            ("postgresql://a:${env:EMPTY}@h/d", "the variable `EMPTY` is empty"),
            ("postgresql://a:${file:x}@h/d", "`x` is no absolute path"),
            ("postgresql://a:${file:/no/such}@h/d", "`/no/such` cannot be read: it is not there"),
            ("${env:NO}", "the variable `NO` is not set"),
        ];
        for (url, what) in cases {
            assert_eq!(whats(url), [what], "{url}");
        }
        assert!(whats("postgresql://a:${vault:x}@h/d")[0].contains("is not a reference"));
        assert_eq!(read_url("postgresql://a:${env:NO}@h/d", &environment).flaws[0].part, Some(15..24));
    }

    #[test]
    fn what_is_no_url_is_refused_without_showing_it() {
        for url in ["host=db1 user=a password=geheim", "mysql://a:geheim@h/d", "geheim", ""] {
            let flaws = read_url(url, &environment).flaws;
            assert!(!flaws.is_empty() && !format!("{flaws:?}").contains("geheim"), "{flaws:?}");
        }
        assert!(whats("postgresql://a:${env:NO}@h:port/d").len() == 2, "form and reference are both said");
    }
}
