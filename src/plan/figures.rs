//! Figures as people read them.

/// `1.5 GB`, `300 MB`, `12 kB`: powers of 1024 under the short names that PostgreSQL uses.
pub(super) fn bytes(count: u64) -> String {
    let units = [("TB", 40), ("GB", 30), ("MB", 20), ("kB", 10)];
    match units.iter().find(|(_, shift)| count >= 1 << shift) {
        None => format!("{count} bytes"),
        Some((unit, shift)) => {
            let tenths = (u128::from(count) * 10) >> shift;
            if tenths.is_multiple_of(10) {
                format!("{} {unit}", tenths / 10)
            } else {
                format!("{}.{} {unit}", tenths / 10, tenths % 10)
            }
        }
    }
}

/// `1 table`, `12,000 tables`.
pub(in crate::plan) fn count(number: usize, one: &str) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number == 1 { format!("{text} {one}") } else { format!("{text} {one}s") }
}

/// `5 s`, `250 ms`, `3 h`, `2 days`.
pub(super) fn milliseconds(count: u64) -> String {
    let units = [("day", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)];
    match units.iter().find(|(_, ms)| count >= *ms && count.is_multiple_of(*ms)) {
        Some(("day", ms)) if count > *ms => format!("{} days", count / ms),
        Some((unit, ms)) => format!("{} {unit}", count / ms),
        None => format!("{count} ms"),
    }
}

/// The first few of a list, and how many more there are.
pub(super) fn few<T: ToString>(items: &[T]) -> String {
    const SHOWN: usize = 5;
    let shown = items.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if items.len() > SHOWN { format!("{shown} and {} more", items.len() - SHOWN) } else { shown }
}

/// What is kept and shown of a command that stands in a server's configuration, and may hold keys: the program, and a mark by
/// which two commands can be told apart, and one be found again with `sha256sum`.
pub fn command_in_short(command: &str) -> String {
    use sha2::{Digest, Sha256};
    let is_plain = |word: &str| word.chars().all(|c| c.is_ascii_alphanumeric() || "_./-:()".contains(c));
    let command = command.trim();
    if is_plain(command) {
        return command.to_owned();
    }
    // Variables that are set before the program are stepped over. One in quotes may go on in the next word.
    let program = command.split_whitespace().find(|word| !word.contains('=') || word.contains(['"', '\'', '\\']));
    let program = program.filter(|word| is_plain(word)).unwrap_or_default();
    let digest = Sha256::digest(command.as_bytes()).iter().take(6).fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    format!("{program} ... (sha256 {digest}...)").trim_start().to_owned()
}

/// A sentence that begins with a word which is written small elsewhere.
pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!([bytes(0), bytes(1536), bytes(20 << 30)], ["0 bytes", "1.5 kB", "20 GB"]);
        assert_eq!([count(1, "table"), count(12_000, "table"), count(0, "row")], ["1 table", "12,000 tables", "0 rows"]);
        let times = [milliseconds(250), milliseconds(5_000), milliseconds(86_400_000), milliseconds(3 * 86_400_000)];
        assert_eq!(times, ["250 ms", "5 s", "1 day", "3 days"]);
        assert_eq!(few(&[1, 2]), "1, 2");
    }

    #[test]
    fn of_a_command_no_more_is_kept_than_its_program() {
        for command in ["", "/bin/true", "(disabled)", ":"] {
            assert_eq!(command_in_short(command), command);
        }
        let shown = command_in_short("pgbackrest --stanza=shop archive-push %p");
        assert_eq!(shown, "pgbackrest ... (sha256 2d98e017c172...)");
        assert_ne!(shown, command_in_short("pgbackrest --stanza=shop-green archive-push %p"));
        for secret in [
            "KEY=s3cret aws s3 cp %p s3://x",
            "env KEY=s3cret aws",
            "KEY='a s3cret b' aws",
            "KEY=\"a s3cret b\" aws",
            "KEY=a\\ s3cret aws",
            "KEY=s3cret",
            "curl -u u:s3cret x",
            "'s3cret' x",
            "$(s3cret)",
        ] {
            let shown = command_in_short(secret);
            assert!(!shown.contains("s3cret") && shown.contains("sha256"), "{secret}: {shown}");
        }
        assert!(command_in_short("KEY=s3cret A=b aws s3 cp").starts_with("aws ... "));
    }

    #[test]
    fn lists_are_cut() {
        assert_eq!(few(&[1, 2, 3, 4, 5, 6, 7]), "1, 2, 3, 4, 5 and 2 more");
    }
}
