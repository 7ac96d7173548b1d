//! The kinds of words that a playbook holds: how each is written, for editors (its JSON Schema), and how it is read.
//!
//! **Invariant:** a text is read here and nowhere else, so that what an editor accepts, what `check` accepts and what a
//! plan holds cannot come apart.

use super::problem::{Flaw, quoted};
use crate::plan::HostSpec;
use crate::word::RelationName;
use jiff::{SignedDuration, civil, tz::TimeZone};
use schemars::{Schema, SchemaGenerator, json_schema};
use std::time::Duration;

/// The formats that the checker knows, as they stand in the schema.
pub(super) const DURATION: &str = "friendly-duration";
pub(super) const SIZE: &str = "byte-size";
pub(super) const ZONE: &str = "time-zone";
pub(super) const CLOCK: &str = "time-of-day";
pub(super) const RELATION: &str = "relation-name";
pub(super) const NAME: &str = "short-name";
pub(super) const ACCEPT: &str = "accepted-finding";
pub(super) const URL: &str = "postgresql-url";
/// A URL that another machine uses: the files that it names are not here.
pub(super) const PEER_URL: &str = "postgresql-url-of-a-peer";
/// A URL, or the word `green`.
pub(super) const SHADOW: &str = "postgresql-url-or-green";
pub(super) const OBJECT: &str = "object-name";
pub(super) const QUERY: &str = "sql-query";
pub(super) const MIGRATIONS: &str = "migrations-folder";
pub(super) const FILE: &str = "existing-file";
pub(super) const PROGRAMS: &str = "postgresql-programs-folder";
pub(super) const NEW_FOLDER: &str = "absolute-path";
pub(super) const HOST: &str = "host-of-files";

pub(super) fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": DURATION, "pattern": r"^\d", "examples": ["5s", "1h 30m", "72h", "500ms"]})
}

pub(super) fn size(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "format": SIZE, "pattern": r"^\d+ ?(B|KiB|MiB|GiB|TiB)$", "examples": ["1MiB", "512KiB", "10GiB"]
    })
}

pub(super) fn zone(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": ZONE, "examples": ["Europe/Berlin", "America/New_York", "UTC"]})
}

pub(super) fn clock(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "format": CLOCK, "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$", "examples": ["02:00", "22:30"]
    })
}

pub(super) fn relations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": {"type": "string", "format": RELATION, "pattern": r".\..", "examples": ["public.orders", "public.\"Orders\""]}})
}

pub(super) fn name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": NAME, "minLength": 1, "maxLength": 60, "examples": ["shop"]})
}

pub(super) fn accepted(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": {
        "type": "string", "format": ACCEPT, "pattern": "^[a-z][a-z0-9-]*(:.+)?$",
        "examples": ["no-archive", "not-reversible:public.orders"]
    }})
}

pub(super) fn url(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "format": URL, "pattern": r"^(postgres(ql)?://|\$\{)",
        "examples": ["postgresql://USER:${env:NAME}@HOST:5432/DATABASE?sslmode=verify-full"]
    })
}

pub(super) fn shadow(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "format": SHADOW, "pattern": r"^(postgres(ql)?://|\$\{|green$)",
        "examples": ["postgresql://USER:${env:NAME}@HOST:5432/DATABASE?sslmode=verify-full", "green"]
    })
}

pub(super) fn admin_url(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "format": URL, "pattern": r"^(postgres(ql)?://|\$\{)",
        "examples": ["postgresql://USER:${env:NAME}@HOST:6432/pgbouncer"]
    })
}

pub(super) fn peer_url(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "format": PEER_URL, "pattern": r"^(postgres(ql)?://|\$\{)",
        "examples": ["postgresql://USER@HOST:5432/DATABASE?sslmode=verify-full&passfile=/var/lib/postgresql/.pgpass"]
    })
}

pub(super) fn schema_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": OBJECT, "minLength": 1, "maxLength": 63, "examples": ["public"]})
}

pub(super) fn role_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": OBJECT, "minLength": 1, "maxLength": 63, "examples": ["app_owner"]})
}

pub(super) fn database(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": OBJECT, "minLength": 1, "maxLength": 63, "examples": ["shop"]})
}

pub(super) fn query(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "format": QUERY, "minLength": 1,
        "examples": ["select count(*) from orders o where not exists (select from customers c where c.id = o.customer_id)"]
    })
}

/// Compared as text, so a number or a truth value may stand here without quotes.
pub(super) fn expected(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["string", "number", "boolean"], "examples": [0, "t"]})
}

pub(super) fn migrations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": MIGRATIONS, "examples": ["migrations"]})
}

pub(super) fn file(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": FILE, "examples": ["/etc/pgbouncer/pgbouncer.ini"]})
}

pub(super) fn programs(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": PROGRAMS, "examples": ["/usr/lib/postgresql/17/bin"]})
}

pub(super) fn new_folder(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": NEW_FOLDER, "pattern": "^/.", "examples": ["/var/lib/postgresql/17/green"]})
}

pub(super) fn host(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "format": HOST, "pattern": "^(local|ssh://.+)$", "examples": ["local", "ssh://postgres@db1.example.com"]
    })
}

pub(super) fn version(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "enum": [1], "examples": [1]})
}

pub(super) fn read_duration(text: &str) -> Result<Duration, Flaw> {
    let how = "write it like `500ms`, `5s`, `1h 30m` or `72h`";
    if text.parse::<f64>().is_ok() {
        return Err(Flaw::new(format!("{} is a duration without a unit", quoted(text)))
            .help(format!("write `{text}s` if seconds are meant")));
    }
    let length: SignedDuration = text.parse().map_err(|_| {
        let days = text.trim().strip_suffix('d').and_then(|days| days.trim().parse::<u32>().ok());
        let how =
            days.map_or(how.to_owned(), |days| format!("days are not all of one length: write `{}h`", u64::from(days) * 24));
        Flaw::new(format!("{} is not a duration", quoted(text))).help(how)
    })?;
    match Duration::try_from(length) {
        Ok(length) if length >= Duration::from_millis(1) => Ok(length),
        _ => Err(Flaw::new(format!("{} is not longer than nothing", quoted(text))).help(how)),
    }
}

pub(super) fn read_size(text: &str) -> Result<u64, Flaw> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = (&text[..digits], text[digits..].trim());
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => {
            let flaw = Flaw::new(format!("{} is not a size", quoted(text)));
            let meant = match unit.to_ascii_lowercase().as_str() {
                "" | "bytes" => "B",
                "k" | "kb" | "kib" => "KiB",
                "m" | "mb" | "mib" => "MiB",
                "g" | "gb" | "gib" => "GiB",
                "t" | "tb" | "tib" => "TiB",
                _ => return Err(flaw.help("write it like `512KiB`, `1MiB` or `10GiB`")),
            };
            let number = if number.is_empty() { "1" } else { number };
            return Err(flaw.help(format!("write `{number}{meant}`: units are B, KiB, MiB, GiB and TiB, of 1024 each")));
        }
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)).filter(|bytes| *bytes <= 1 << 60);
    bytes.ok_or_else(|| Flaw::new(format!("{} is not a size", quoted(text))).help("write it like `512KiB`, `1MiB` or `10GiB`"))
}

pub(super) fn read_zone(text: &str) -> Result<(), Flaw> {
    TimeZone::get(text).map(|_| ()).map_err(|_| {
        let help = nearest(text, jiff::tz::db().available().map(|zone| zone.to_string()))
            .map_or("write an IANA name such as `Europe/Berlin` or `UTC`".to_owned(), |zone| format!("did you mean `{zone}`?"));
        Flaw::new(format!("{} is no time zone", quoted(text))).help(help)
    })
}

pub(super) fn read_clock(text: &str) -> Result<civil::Time, Flaw> {
    let digits =
        text.len() == 5 && text.bytes().enumerate().all(|(at, byte)| if at == 2 { byte == b':' } else { byte.is_ascii_digit() });
    let time = if digits { text.parse().ok() } else { None };
    time.ok_or_else(|| {
        Flaw::new(format!("{} is no time of day", quoted(text))).help("write hours and minutes: `\"00:00\"` to `\"23:59\"`")
    })
}

pub(super) fn read_relation(text: &str) -> Result<RelationName, Flaw> {
    let flaw = || {
        Flaw::new(format!("{} is not the name of a table with its schema", quoted(text)))
            .help("write it as `public.orders`; with capitals or spaces as `'public.\"Order items\"'`")
    };
    let (schema, rest) = identifier(text).ok_or_else(flaw)?;
    let (name, rest) = rest.strip_prefix('.').and_then(identifier).ok_or_else(flaw)?;
    if rest.is_empty() { Ok(RelationName::new(schema, name)) } else { Err(flaw()) }
}

/// An SQL identifier at the beginning of the text, and what follows. Unquoted ones are folded to lower case, as
/// PostgreSQL does.
fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
        let end = text.find(|c| !plain(c)).unwrap_or(text.len());
        let starts_well = text.starts_with(|c: char| c.is_alphabetic() || c == '_');
        return starts_well.then(|| (text[..end].to_ascii_lowercase(), &text[end..]));
    };
    let mut name = String::new();
    let mut rest = quoted;
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return (!name.is_empty()).then_some((name, after)),
        }
    }
}

pub(super) fn read_name(text: &str) -> Result<(), Flaw> {
    let fits = !text.trim().is_empty() && text.chars().count() <= 60 && !text.chars().any(char::is_control);
    if fits {
        Ok(())
    } else {
        Err(Flaw::new(format!("{} is no name", quoted(text))).help("write one line of 1 to 60 characters"))
    }
}

pub(super) fn read_object(text: &str) -> Result<(), Flaw> {
    // PostgreSQL's own limit for a name.
    let fits = !text.is_empty() && text.len() <= 63 && !text.chars().any(char::is_control);
    if fits {
        Ok(())
    } else {
        Err(Flaw::new(format!("{} cannot be a name in PostgreSQL", quoted(text))).help("write 1 to 63 bytes, without quotes"))
    }
}

pub(super) fn read_host(text: &str) -> Result<HostSpec, Flaw> {
    HostSpec::parse(text).map_err(|_| {
        Flaw::new(format!("{} is no host", quoted(text)))
            .help("write `local`, or `ssh://user@host` with `:port` where it is not 22")
    })
}

pub(super) fn read_query(text: &str) -> Result<(), Flaw> {
    if text.trim().is_empty() { Err(Flaw::new("the query is empty").help("write a query that gives one value")) } else { Ok(()) }
}

pub(super) fn read_accept(text: &str) -> Result<(), Flaw> {
    let (code, object) = text.split_once(':').unwrap_or((text, "of the whole run"));
    let fits = code.starts_with(|c: char| c.is_ascii_lowercase())
        && code.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !object.trim().is_empty();
    let help = "write the code that `greenlight plan` shows, such as `no-archive` or `not-reversible:public.orders`";
    if fits { Ok(()) } else { Err(Flaw::new(format!("{} is not the code of a finding", quoted(text))).help(help)) }
}

/// The word of `words` that `text` was most likely meant to be.
pub(super) fn nearest<W: AsRef<str>>(text: &str, words: impl IntoIterator<Item = W>) -> Option<W> {
    let lower: String = text.chars().take(60).collect::<String>().to_lowercase();
    let distance = |word: &W| strsim::osa_distance(&lower, &word.as_ref().to_lowercase());
    let (word, distance) = words.into_iter().map(|word| (distance(&word), word)).min_by_key(|(d, _)| *d).map(|(d, w)| (w, d))?;
    (distance <= (lower.chars().count() / 3).max(1)).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help<T: std::fmt::Debug>(read: Result<T, Flaw>) -> String {
        read.unwrap_err().help.unwrap()
    }

    #[test]
    fn durations_have_a_unit_and_a_length() {
        let cases = [("5s", 5_000), ("500ms", 500), ("1h 30m", 5_400_000), ("72h", 259_200_000), ("2 minutes", 120_000)];
        for (text, ms) in cases {
            assert_eq!(read_duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        assert_eq!(help(read_duration("5")), "write `5s` if seconds are meant");
        assert_eq!(help(read_duration("3d")), "days are not all of one length: write `72h`");
        for text in ["", "s", "0s", "-5s", "5 parsecs", "1ns", "99999999999999999999h"] {
            assert!(read_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_a_unit_of_1024() {
        let cases = [("0B", 0), ("1B", 1), ("512KiB", 512 << 10), ("1 MiB", 1 << 20), ("10GiB", 10 << 30), ("2TiB", 2 << 40)];
        for (text, bytes) in cases {
            assert_eq!(read_size(text).unwrap(), bytes, "{text}");
        }
        assert!(help(read_size("10GB")).starts_with("write `10GiB`"));
        assert!(help(read_size("1024")).starts_with("write `1024B`"));
        for text in ["", "MiB", "-1MiB", "1.5GiB", "lots", "99999999999999999999B", "9999999999TiB", "é"] {
            assert!(read_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn table_names_are_read_as_postgresql_reads_them() {
        let cases = [
            ("public.orders", ("public", "orders")),
            ("Public.Orders", ("public", "orders")),
            (r#"public."Order ""x"" items""#, ("public", r#"Order "x" items"#)),
            (r#""a.b".c"#, ("a.b", "c")),
            ("öffentlich.tür", ("öffentlich", "tür")),
        ];
        for (text, (schema, name)) in cases {
            assert_eq!(read_relation(text).unwrap(), RelationName::new(schema, name), "{text}");
        }
        for text in ["", "orders", "public.", ".orders", "a.b.c", "public.order items", "\"a", "\"\".b", "1.b"] {
            assert!(read_relation(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_zones_names_and_codes_are_checked() {
        assert_eq!(read_clock("02:30").unwrap(), civil::time(2, 30, 0, 0));
        for text in ["2:30", "24:00", "02:60", "02:30:00", "noon", ""] {
            assert!(read_clock(text).is_err(), "{text}");
        }
        assert!(read_zone("Europe/Berlin").is_ok());
        assert_eq!(help(read_zone("Europe/Berln")), "did you mean `Europe/Berlin`?");
        assert!(read_zone("Nowhere/None").is_err());
        assert!(read_accept("not-reversible:public.orders").is_ok());
        for text in ["", "No-Archive", "no archive", "x:", "-x"] {
            assert!(read_accept(text).is_err(), "{text}");
        }
        assert!(read_name("shop 2").is_ok());
        assert!(read_name(" ").is_err());
    }

    #[test]
    fn a_mistyped_word_finds_its_neighbour_and_a_strange_one_none() {
        let words = ["max_pause", "max_lag", "long_transactions"];
        assert_eq!(nearest("max_puase", words), Some("max_pause"));
        assert_eq!(nearest("longTransactions", words), Some("long_transactions"));
        assert_eq!(nearest("zebra", words), None);
        assert_eq!(nearest("", words), None);
    }
}
