//! Migrations from a folder of SQL files: `<version>_<name>.up.sql`, and `.down.sql` beside it where there is a way back.
//!
//! Everything that is wrong is said at once.

use super::{Applied, Migration, statements};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

/// What is wrong with a file or the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    pub path: PathBuf,
    /// From 1, where it is about a line.
    pub line: Option<u32>,
    pub problem: String,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path.display(), self.problem),
            None => write!(f, "{}: {}", self.path.display(), self.problem),
        }
    }
}

/// The folder's files cannot be used as they are.
#[derive(Debug, thiserror::Error)]
#[error("could not use the migrations:\n  {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))]
pub struct Unusable(pub Vec<FileProblem>);

impl Migration {
    pub fn file_name(&self) -> String {
        format!("{}_{}.up.sql", self.version, self.name)
    }

    /// That of its way back, there or not.
    pub fn down_file_name(&self) -> String {
        format!("{}_{}.down.sql", self.version, self.name)
    }

    /// The one comparison of versions: `01` and `1` are the same, wherever they stand.
    pub fn is_version(&self, version: &str) -> bool {
        order(&self.version) == order(version)
    }
}

/// Sorts versions as numbers: leading zeros do not count.
pub fn order(version: &str) -> (usize, &str) {
    let digits = version.trim_start_matches('0');
    (digits.len(), digits)
}

/// SHA-256 in hex.
pub fn checksum(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// The migrations of a folder, by version.
///
/// # Errors
/// Every problem of every file; never an empty list.
pub fn read(folder: &Path) -> Result<Vec<Migration>, Vec<FileProblem>> {
    let mut reader = Reader::default();
    match fs::read_dir(folder) {
        Err(error) => reader.problem(folder, None, format!("cannot be read: {error}")),
        Ok(entries) => {
            let mut paths: Vec<PathBuf> = Vec::new();
            for entry in entries {
                match entry {
                    Ok(entry) => paths.push(entry.path()),
                    Err(error) => reader.problem(folder, None, format!("cannot be read: {error}")),
                }
            }
            paths.sort();
            for path in &paths {
                reader.file(path);
            }
            if reader.found.is_empty() && reader.problems.is_empty() {
                reader.problem(
                    folder,
                    None,
                    "holds no migrations; their files are named like `0001_add_prices.up.sql`".to_owned(),
                );
            }
        }
    }
    reader.finish()
}

/// Whose down file is whose: the number of the version.
type Number = (usize, String);

#[derive(Default)]
struct Reader {
    found: Vec<(PathBuf, Migration)>,
    downs: BTreeMap<Number, (PathBuf, String, String)>,
    problems: Vec<FileProblem>,
}

fn number(version: &str) -> Number {
    let (length, digits) = order(version);
    (length, digits.to_owned())
}

impl Reader {
    fn problem(&mut self, path: &Path, line: Option<u32>, problem: String) {
        self.problems.push(FileProblem { path: path.to_owned(), line, problem });
    }

    fn file(&mut self, path: &Path) {
        let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if file_name.starts_with('.') || (path.is_file() && ["md", "txt"].contains(&extension)) {
            return;
        }
        let up = file_name.strip_suffix(".up.sql").map(|stem| (stem, true));
        let Some((stem, is_up)) = up.or_else(|| file_name.strip_suffix(".down.sql").map(|stem| (stem, false))) else {
            let problem = "is not a migration; name it like `0001_add_prices.up.sql` or `.down.sql`, or move it elsewhere";
            return self.problem(path, None, problem.to_owned());
        };
        let split = stem.split_once('_').filter(|(version, name)| {
            !name.is_empty() && !version.is_empty() && version.len() <= 50 && version.chars().all(|c| c.is_ascii_digit())
        });
        let Some((version, name)) = split else {
            let problem = "has no version; its name begins with a number of at most 50 digits, then `_` and a name";
            return self.problem(path, None, problem.to_owned());
        };
        let Some(text) = self.text(path) else { return };
        if is_up {
            self.up(path, version, name, text);
        } else if let Some((other, _, _)) = self.downs.get(&number(version)) {
            let problem = format!("has the same version as `{}`", other.display());
            self.problem(path, None, problem);
        } else {
            self.downs.insert(number(version), (path.to_owned(), name.to_owned(), text));
        }
    }

    fn text(&mut self, path: &Path) -> Option<String> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.problem(path, None, format!("cannot be read: {error}"));
                return None;
            }
        };
        let problem = match String::from_utf8(bytes) {
            Ok(text) if text.contains('\0') => "holds a zero byte, which no SQL may".to_owned(),
            Ok(text) if text.starts_with('\u{feff}') => "begins with a byte order mark; save it as plain UTF-8".to_owned(),
            Ok(text) => {
                for (line, problem) in statements::read(&text).problems {
                    self.problem(path, Some(line), problem);
                }
                return Some(text);
            }
            Err(error) => {
                let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = valid.split(|byte| *byte == b'\n').count();
                self.problem(path, u32::try_from(line).ok(), "is not UTF-8 here".to_owned());
                return None;
            }
        };
        self.problem(path, None, problem);
        None
    }

    fn up(&mut self, path: &Path, version: &str, name: &str, text: String) {
        if statements::read(&text).statements.is_empty() {
            self.problem(path, None, "holds no statement".to_owned());
        }
        if let Some((other, _)) = self.found.iter().find(|(_, other)| order(&other.version) == order(version)) {
            let problem = format!("has the same version as `{}`", other.display());
            return self.problem(path, None, problem);
        }
        let migration = Migration {
            version: version.to_owned(),
            name: name.to_owned(),
            checksum: checksum(&text),
            transactional: statements::is_transactional(&text),
            up: text,
            down: None,
        };
        self.found.push((path.to_owned(), migration));
    }

    fn finish(mut self) -> Result<Vec<Migration>, Vec<FileProblem>> {
        let mut downs = std::mem::take(&mut self.downs);
        let mut migrations = Vec::new();
        for (path, mut migration) in std::mem::take(&mut self.found) {
            if let Some((down, name, text)) = downs.remove(&number(&migration.version)) {
                if name != migration.name {
                    let problem = format!("has the version of `{}` and another name", path.display());
                    self.problem(&down, None, problem);
                }
                if let Some((line, problem)) = way_back_in_batches(&migration.up, &text) {
                    self.problem(&down, Some(line), problem.to_owned());
                }
                migration.down = Some(text);
            }
            migrations.push(migration);
        }
        for (path, _, _) in downs.into_values() {
            self.problem(&path, None, "has no `.up.sql` beside it".to_owned());
        }
        migrations.sort_by(|a, b| order(&a.version).cmp(&order(&b.version)));
        if self.problems.is_empty() { Ok(migrations) } else { Err(self.problems) }
    }
}

/// What is wrong with the way back of a migration in batches, and its line. Stopped in the middle, the migration has reached some
/// rows of its table only, and no statement but one in batches can be kept from the others.
fn way_back_in_batches(up: &str, down: &str) -> Option<(u32, &'static str)> {
    let table = statements::read(up).batch?.table;
    let of_table = |other: &statements::WrittenName| {
        other.name == table.name && (other.schema.is_none() || table.schema.is_none() || other.schema == table.schema)
    };
    let contents = statements::read(down);
    let writes = |statement: &&statements::Statement| {
        let of_touch = |touch: &statements::Touch| matches!(touch, statements::Touch::Write { table, .. } if of_table(table));
        statement.kind == statements::StatementKind::Unread || statement.effects.touches.iter().any(of_touch)
    };
    match contents.batch {
        Some(batch) if of_table(&batch.table) => None,
        Some(_) => Some((contents.statements[0].line, "is in batches of another table than its `.up.sql`, which may stop half-way")),
        None => contents.statements.iter().find(writes).map(|statement| {
            let problem = "writes the rows of a migration in batches all at once; write it in batches, too: where that stops half-way, \
                           only the rows that it had reached are then taken back";
            (statement.line, problem)
        }),
    }
}

/// The migrations that a database with this history has yet to run.
pub fn pending(migrations: &[Migration], applied: &[Applied]) -> Vec<Migration> {
    let is_done = |migration: &&Migration| applied.iter().any(|done| migration.is_version(&done.version));
    migrations.iter().filter(|migration| !is_done(migration)).cloned().collect()
}

/// Whether a text and the one with this checksum differ in the ends of their lines only.
pub fn differs_in_line_ends(text: &str, checksum_of_other: &str) -> bool {
    let unix = text.replace("\r\n", "\n");
    [checksum(&unix), checksum(&unix.replace('\n', "\r\n"))].iter().any(|sum| sum == checksum_of_other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word::Timestamp;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn problems(files: &[(&str, &str)]) -> Vec<String> {
        let folder = folder(files);
        let prefix = format!("{}/", folder.path().display());
        read(folder.path()).unwrap_err().iter().map(|problem| problem.to_string().replace(&prefix, "")).collect()
    }

    #[test]
    fn files_are_read_in_the_order_of_their_numbers() {
        let files = [
            ("10_c.up.sql", "-- greenlight: no-transaction\nSELECT 3;"),
            ("0002_b.up.sql", "SELECT 2;"),
            ("0002_b.down.sql", "SELECT -2;"),
            ("1_a.up.sql", "SELECT 1;"),
            ("README.md", "about"),
            (".gitkeep", ""),
        ];
        let migrations = read(folder(&files).path()).unwrap();
        let seen: Vec<_> = migrations.iter().map(|one| (one.file_name(), one.transactional, one.down.is_some())).collect();
        let expected = [("1_a.up.sql", true, false), ("0002_b.up.sql", true, true), ("10_c.up.sql", false, false)];
        assert_eq!(seen, expected.map(|(name, transactional, down)| (name.to_owned(), transactional, down)));
        assert_eq!(migrations[0].checksum, "17db4fd369edb9244b9f91d9aeed145c3d04ad8ba6e95d06247f07a63527d11a");
    }

    #[test]
    fn all_problems_are_said_at_once() {
        let says = problems(&[
            ("0001_a.up.sql", "SELECT 1;\n\\set x 1\n"),
            ("01_again.up.sql", "SELECT 1;"),
            ("0002_b.down.sql", "SELECT 1;"),
            ("0003_c.up.sql", "-- nothing\n"),
            ("0004_d.up.sql", "BEGIN;\nSELECT 1;\nCOMMIT;"),
            ("five_e.up.sql", "SELECT 1;"),
            ("0006.up.sql", "SELECT 1;"),
            ("notes.sql", "SELECT 1;"),
            ("0007_g.up.sql", "SELECT 1;"),
            ("0007_h.down.sql", "SELECT 1;"),
        ]);
        let expected = [
            "0001_a.up.sql:2: `\\set` is a command of psql",
            "0003_c.up.sql: holds no statement",
            "0004_d.up.sql:1: `BEGIN`: Greenlight opens and ends the transaction itself",
            "0004_d.up.sql:3: `COMMIT`",
            "0006.up.sql: has no version",
            "01_again.up.sql: has the same version as",
            "five_e.up.sql: has no version",
            "notes.sql: is not a migration",
            "0007_h.down.sql: has the version of",
            "0002_b.down.sql: has no `.up.sql` beside it",
        ];
        assert_eq!(says.len(), expected.len(), "{says:#?}");
        for (said, expected) in says.iter().zip(expected) {
            assert!(said.starts_with(expected), "{said}");
        }
    }

    #[test]
    fn the_way_back_of_a_migration_in_batches_is_in_batches_of_the_same_rows() {
        let up = "-- greenlight: batches of 10\nUPDATE shop.t SET n = n + 1 WHERE :batch;";
        let of = |down: &str| problems(&[("1_a.up.sql", up), ("1_a.down.sql", down)]);
        let read = |down: &str| read(folder(&[("1_a.up.sql", up), ("1_a.down.sql", down)]).path());
        for good in [
            "-- greenlight: batches of 500\nUPDATE t SET n = n - 1 WHERE :batch;",
            "ALTER TABLE shop.t DROP n;",
            "-- nothing to take back",
            "UPDATE other.t SET n = 0;",
        ] {
            assert!(!read(good).unwrap()[0].transactional, "{good}");
        }
        for (wrong, says) in [
            ("SELECT 1;\nUPDATE t SET n = n - 1;", "1_a.down.sql:2: writes the rows of a migration in batches all at once"),
            ("SELEC;", "1_a.down.sql:1: writes the rows"),
            ("-- greenlight: batches of 1\nDELETE FROM u WHERE :batch;", "1_a.down.sql:2: is in batches of another table"),
        ] {
            assert!(of(wrong)[0].starts_with(says), "{:?}", of(wrong));
        }
        let without = problems(&[("1_a.up.sql", "-- greenlight: batches of 9\n\nUPDATE t SET n = 1;")]);
        assert!(without[0].starts_with("1_a.up.sql:3: `:batch` is missing"), "{without:?}");
    }

    #[test]
    fn a_folder_that_is_empty_or_unreadable_is_a_problem() {
        assert!(problems(&[])[0].contains("holds no migrations"));
        assert!(read(Path::new("/nonexistent/migrations")).unwrap_err()[0].problem.contains("cannot be read"));
        let folder = folder(&[]);
        fs::write(folder.path().join("1_a.up.sql"), b"SELECT 1;\n\xff").unwrap();
        assert_eq!(read(folder.path()).unwrap_err()[0].line, Some(2));
    }

    #[test]
    fn a_version_is_the_same_however_it_is_written() {
        let files = [("01_a.up.sql", "SELECT 1;"), ("9_b.up.sql", "SELECT 9;"), ("10_c.up.sql", "SELECT 10;")];
        let migrations = read(folder(&files).path()).unwrap();
        let applied = |version: &str| Applied {
            version: version.to_owned(),
            checksum: String::new(),
            applied_at: Timestamp::UNIX_EPOCH,
            execution_time_ms: 1,
        };
        let left = |applied: &[Applied]| pending(&migrations, applied).into_iter().map(|one| one.version).collect::<Vec<_>>();
        assert_eq!(left(&[applied("1"), applied("009")]), ["10"]);
        assert_eq!(left(&[]), ["01", "9", "10"]);
    }

    #[test]
    fn a_file_that_differs_in_its_line_ends_is_told_from_another() {
        let (unix, windows) = ("SELECT 1;\nSELECT 2;\n", "SELECT 1;\r\nSELECT 2;\r\n");
        assert!(differs_in_line_ends(windows, &checksum(unix)) && differs_in_line_ends(unix, &checksum(windows)));
        assert!(!differs_in_line_ends(windows, &checksum("SELECT 3;\n")));
    }
}
