use std::path::Path;

/// A word as a person types it into a shell: quoted where it must be.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Why PostgreSQL's own programs would take a path for something else: they hand it to a shell or write it into a file
/// without quoting all of it.
pub fn misread_path(path: &Path) -> Option<String> {
    let text = path.to_string_lossy();
    let named = |sign| match sign {
        '\n' => "a line break".to_owned(),
        '\r' => "a carriage return".to_owned(),
        sign => format!("the sign {sign}"),
    };
    let found = text.chars().find(|sign| "\"$`\\\n\r".contains(*sign))?;
    Some(format!("the path `{}` holds {}, which PostgreSQL's own programs do not quote", text.escape_debug(), named(found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell_where_they_must_be() {
        assert_eq!(shell_word("/backups/today"), "/backups/today");
        assert_eq!(shell_word("/backups/my own"), "'/backups/my own'");
        assert_eq!(shell_word("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn a_path_that_would_be_misread_is_known() {
        for path in ["/a\"b", "/a$(id)", "/a\\b", "/a`id`", "/a\nb"] {
            assert!(misread_path(Path::new(path)).is_some(), "{path}");
        }
        for path in ["/a b", "/it's", "/100%", "/é;x", "/a,b"] {
            assert_eq!(misread_path(Path::new(path)), None, "{path}");
        }
    }
}
