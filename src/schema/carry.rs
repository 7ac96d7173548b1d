//! How the values of a column flow as text when its type is another one on the other side.
//!
//! Two ways lead to a value on green: the migration converts the rows that are there by PostgreSQL's cast, and rows that
//! arrive later are read from the text that blue sends. A pair of types is carried only where both ways give the same
//! value; every pair that is not listed is refused.

use super::Catalog;
use std::collections::BTreeSet;

/// What is so when a column changes from one type to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Carried {
    /// What must hold for rows that come from blue; a row for which it does not stops the sync and is noticed.
    pub forward: Option<String>,
    /// What must hold for rows that go back; a row for which it does not stops the way back and is noticed.
    pub back: Option<String>,
    /// What rows that go back lose without an error.
    pub loses: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Carry {
    Flows(Carried),
    /// Rows arrive on green, and cannot come back.
    ForwardOnly(String),
    Refused(String),
}

/// A type as far as the rules look.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// Bytes: 2, 4 or 8.
    Int(u32),
    /// Precision and scale.
    Numeric(Option<(u32, u32)>),
    Float4,
    Float8,
    /// `text` and `character varying` with its limit.
    Text(Option<u32>),
    /// `character(n)`, padded with spaces.
    Padded(u32),
    /// Fractional digits.
    Timestamp(u32),
    TimestampTz(u32),
    Date,
    Json,
    Jsonb,
    Uuid,
    Enum(BTreeSet<String>),
    Array(Box<Form>),
    Other(String),
}

/// How a column of type `from` in `before` flows when it has type `to` in `after`. The same name may mean another type.
pub(super) fn carry(before: &Catalog, from: &str, after: &Catalog, to: &str) -> Carry {
    let definitions = (definition(before, from), definition(after, to));
    if from == to && definitions.0 == definitions.1 {
        return Carry::Flows(Carried::default());
    }
    let is_domain = |text: Option<&String>| text.is_some_and(|text| text.starts_with("DOMAIN"));
    let carried = pair(&form(before, from), &form(after, to), from, to);
    match carried {
        Carry::Flows(mut carried) => {
            if is_domain(definitions.1) {
                carried.forward.get_or_insert(format!("every value fits `{to}`"));
            }
            if is_domain(definitions.0) {
                carried.back.get_or_insert(format!("every value fits blue's `{from}`"));
            }
            Carry::Flows(carried)
        }
        refused => refused,
    }
}

/// Whether the type refuses NULL by itself: a domain declared NOT NULL.
pub(super) fn refuses_null(catalog: &Catalog, type_name: &str) -> bool {
    definition(catalog, type_name).is_some_and(|text| text.starts_with("DOMAIN") && text.contains(" NOT NULL"))
}

/// Whether two values of the type can be compared for equality as replication with REPLICA IDENTITY FULL does.
pub(super) fn comparable(type_name: &str) -> bool {
    let base = type_name.trim_end_matches("[]");
    !["json", "xml", "point", "box", "line", "lseg", "path", "polygon", "circle", "jsonpath"].contains(&base)
}

fn definition<'a>(catalog: &'a Catalog, type_name: &str) -> Option<&'a String> {
    catalog.types.get(type_name.trim_end_matches("[]"))
}

fn form(catalog: &Catalog, type_name: &str) -> Form {
    if let Some(element) = type_name.strip_suffix("[]") {
        return Form::Array(Box::new(form(catalog, element)));
    }
    match catalog.types.get(type_name) {
        Some(text) if text.starts_with("ENUM ") => Form::Enum(labels(&text["ENUM ".len()..])),
        Some(text) if text.starts_with("DOMAIN ") => {
            let base = &text["DOMAIN ".len()..];
            let end = [" NOT NULL", " DEFAULT ", " CHECK "].iter().filter_map(|word| base.find(word)).min().unwrap_or(base.len());
            form(catalog, &base[..end])
        }
        Some(text) => Form::Other(text.clone()),
        None => builtin(type_name),
    }
}

fn labels(text: &str) -> BTreeSet<String> {
    text.split(", ").map(str::to_owned).collect()
}

fn builtin(type_name: &str) -> Form {
    let (base, arguments) = match (type_name.find('('), type_name.find(')')) {
        (Some(open), Some(close)) => (format!("{}{}", &type_name[..open], &type_name[close + 1..]), &type_name[open + 1..close]),
        _ => (type_name.to_owned(), ""),
    };
    let numbers: Vec<u32> = arguments.split(',').filter_map(|number| number.trim().parse().ok()).collect();
    let first = numbers.first().copied();
    match base.as_str() {
        "smallint" => Form::Int(2),
        "integer" => Form::Int(4),
        "bigint" => Form::Int(8),
        // A negative scale does not parse, and the pair is then not known.
        "numeric" if !arguments.is_empty() && numbers.len() != arguments.split(',').count() => Form::Other(type_name.to_owned()),
        "numeric" => Form::Numeric(first.map(|precision| (precision, numbers.get(1).copied().unwrap_or(0)))),
        "real" => Form::Float4,
        "double precision" => Form::Float8,
        "text" => Form::Text(None),
        "character varying" => Form::Text(first),
        "character" => Form::Padded(first.unwrap_or(1)),
        "timestamp without time zone" => Form::Timestamp(first.unwrap_or(6)),
        "timestamp with time zone" => Form::TimestampTz(first.unwrap_or(6)),
        "date" => Form::Date,
        "json" => Form::Json,
        "jsonb" => Form::Jsonb,
        "uuid" => Form::Uuid,
        _ => Form::Other(type_name.to_owned()),
    }
}

fn pair(from: &Form, to: &Form, from_name: &str, to_name: &str) -> Carry {
    let flows = |forward: Option<&str>, back: Option<&str>| {
        Carry::Flows(Carried { forward: forward.map(str::to_owned), back: back.map(str::to_owned), loses: None })
    };
    let loses = |what: &str| Carry::Flows(Carried { loses: Some(what.to_owned()), ..Carried::default() });
    let fits = format!("every value fits `{to_name}`");
    let fits_back = format!("every value fits blue's `{from_name}`");
    let (fits, fits_back) = (Some(fits.as_str()), Some(fits_back.as_str()));
    let spelling = Some("blue may get another spelling of the same value in rows written on green");
    let zone = Some("the time zone setting is the same for every session on both servers");
    match (from, to) {
        (Form::Array(from), Form::Array(to)) => pair(from, to, from_name, to_name),
        (Form::Int(a), Form::Int(b)) => flows(fits.filter(|_| a > b), fits_back.filter(|_| a < b)),
        (Form::Int(_), Form::Numeric(Some((_, scale)))) if *scale > 0 => {
            Carry::ForwardOnly(format!("`{to_name}` is sent with decimals, which blue's `{from_name}` cannot read"))
        }
        (Form::Int(bytes), Form::Numeric(Some((precision, _)))) => {
            let digits = match bytes {
                2 => 5,
                4 => 10,
                _ => 19,
            };
            flows(fits.filter(|_| *precision < digits), fits_back)
        }
        (Form::Int(_), Form::Numeric(None)) | (Form::Int(2 | 4), Form::Float8) | (Form::Int(2), Form::Float4) => {
            flows(None, fits_back)
        }
        (Form::Numeric(Some((_, 0))), Form::Int(_)) => flows(fits, fits_back),
        (Form::Numeric(Some((p1, s1))), Form::Numeric(Some((p2, s2)))) if s1 == s2 => {
            flows(fits.filter(|_| p1 > p2), fits_back.filter(|_| p1 < p2))
        }
        (Form::Numeric(_), Form::Numeric(_)) => loses("decimals beyond those of the shorter type are rounded away"),
        (Form::Text(a), Form::Text(b)) => {
            let (a, b) = (a.unwrap_or(u32::MAX), b.unwrap_or(u32::MAX));
            flows(fits.filter(|_| a > b), fits_back.filter(|_| a < b))
        }
        (Form::Padded(a), Form::Padded(b)) => flows(fits.filter(|_| a > b), fits_back.filter(|_| a < b)),
        (Form::Int(_) | Form::Numeric(_) | Form::Uuid | Form::Json | Form::Enum(_), Form::Text(limit)) => {
            flows(fits.filter(|_| limit.is_some()), fits_back)
        }
        // Blue sends jsonb in its own spelling, which is also what the cast gives.
        (Form::Jsonb, Form::Text(None) | Form::Json) => flows(None, fits_back.filter(|_| *to != Form::Json)),
        (Form::Text(_), Form::Int(_) | Form::Numeric(None) | Form::Uuid | Form::Jsonb) => flows(fits, spelling),
        (Form::Text(a), Form::Json | Form::Enum(_)) => flows(fits, fits_back.filter(|_| a.is_some())),
        (Form::Json, Form::Jsonb) => flows(fits, spelling),
        (Form::Enum(a), Form::Enum(b)) if from_name == to_name && !a.is_subset(b) => {
            let gone: Vec<&str> = a.difference(b).map(String::as_str).collect();
            Carry::Refused(format!(
                "{} of `{to_name}` is renamed or gone: a row from blue that has it would stop the flow, and those that are there differ. A \
                 rename belongs into the window and is not carried yet; add a value, and change the rows after the finish",
                gone.join(", ")
            ))
        }
        (Form::Enum(a), Form::Enum(b)) => flows(fits.filter(|_| !a.is_subset(b)), fits_back.filter(|_| !b.is_subset(a))),
        (Form::Timestamp(a), Form::Timestamp(b)) | (Form::TimestampTz(a), Form::TimestampTz(b)) if a != b => {
            loses("fractions of a second beyond those of the shorter type are rounded away")
        }
        (Form::Timestamp(a), Form::TimestampTz(b)) | (Form::TimestampTz(a), Form::Timestamp(b)) if a == b => flows(zone, zone),
        (Form::Date, Form::Timestamp(_)) | (Form::Timestamp(_), Form::Date) => {
            loses("the time of day does not come back to blue")
        }
        (a, b) if a == b => flows(None, None),
        _ => Carry::Refused(unknown(from, to, from_name, to_name)),
    }
}

fn unknown(from: &Form, to: &Form, from_name: &str, to_name: &str) -> String {
    let why = match (from, to) {
        (Form::Padded(_), Form::Text(_)) | (Form::Text(_), Form::Padded(_)) => {
            "a conversion handles the padding with spaces otherwise than replication does"
        }
        (Form::Float4, Form::Float8) | (Form::Float8, Form::Float4) | (Form::Float4 | Form::Float8, Form::Numeric(_)) => {
            "a conversion rounds otherwise than replication does"
        }
        _ => "it is not known that a conversion and replication give the same value",
    };
    format!("`{from_name}` cannot flow into `{to_name}`: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let types = [
            ("shop.status", "ENUM 'new', 'paid'"),
            ("shop.more", "ENUM 'new', 'paid', 'sent'"),
            ("shop.email", "DOMAIN character varying(50) NOT NULL CHECK ((VALUE ~ '@'::text))"),
            ("shop.pair", "COMPOSITE a integer"),
        ];
        Catalog { types: types.map(|(name, text)| (name.to_owned(), text.to_owned())).into(), ..Catalog::default() }
    }

    /// `=` lossless, `f` a condition forward, `b` one on the way back, `l` a silent loss, `>` forward only, `!` refused.
    fn sign(from: &str, to: &str) -> String {
        match carry(&catalog(), from, &catalog(), to) {
            Carry::Refused(_) => "!".to_owned(),
            Carry::ForwardOnly(_) => ">".to_owned(),
            Carry::Flows(carried) => {
                let signs = [(carried.forward, "f"), (carried.back, "b"), (carried.loses, "l")];
                let text: String = signs.iter().filter(|(what, _)| what.is_some()).map(|(_, sign)| *sign).collect();
                if text.is_empty() { "=".to_owned() } else { text }
            }
        }
    }

    #[test]
    fn each_pair_of_types_flows_as_replication_and_cast_agree() {
        let cases = [
            ("integer", "integer", "="),
            ("integer", "bigint", "b"),
            ("bigint", "integer", "f"),
            ("integer[]", "bigint[]", "b"),
            ("integer", "integer[]", "!"),
            ("integer", "numeric", "b"),
            ("integer", "numeric(12,0)", "b"),
            ("bigint", "numeric(12,0)", "fb"),
            ("integer", "numeric(12,2)", ">"),
            ("numeric(8,0)", "integer", "fb"),
            ("numeric(8,2)", "integer", "!"),
            ("numeric(8,2)", "numeric(10,2)", "b"),
            ("numeric(10,2)", "numeric(8,2)", "f"),
            ("numeric(8,2)", "numeric(10,4)", "l"),
            ("numeric(8,2)", "numeric", "l"),
            ("integer", "double precision", "b"),
            ("bigint", "double precision", "!"),
            ("real", "double precision", "!"),
            ("double precision", "numeric", "!"),
            ("character varying(50)", "character varying(80)", "b"),
            ("character varying(50)", "text", "b"),
            ("text", "character varying(50)", "f"),
            ("character varying", "text", "="),
            ("character(5)", "text", "!"),
            ("character(5)", "character(9)", "b"),
            ("integer", "text", "b"),
            ("text", "integer", "fb"),
            ("boolean", "integer", "!"),
            ("boolean", "text", "!"),
            ("json", "jsonb", "fb"),
            ("jsonb", "json", "="),
            ("text", "jsonb", "fb"),
            ("uuid", "text", "b"),
            ("shop.status", "text", "b"),
            ("text", "shop.status", "f"),
            ("shop.status", "shop.more", "b"),
            ("shop.more", "shop.status", "f"),
            ("shop.status[]", "text[]", "b"),
            ("shop.email", "character varying(50)", "b"),
            ("character varying(50)", "shop.email", "f"),
            ("shop.pair", "text", "!"),
            ("timestamp without time zone", "timestamp with time zone", "fb"),
            ("timestamp(0) without time zone", "timestamp without time zone", "l"),
            ("date", "timestamp without time zone", "l"),
            ("money", "numeric", "!"),
            ("numeric(3,-2)", "numeric", "!"),
        ];
        let seen: Vec<_> = cases.iter().map(|(from, to, _)| (*from, *to, sign(from, to))).collect();
        assert_eq!(seen, cases.map(|(from, to, sign)| (from, to, sign.to_owned())));
    }

    #[test]
    fn a_type_that_changed_under_its_name_is_seen() {
        let mut after = catalog();
        after.types.insert("shop.status".to_owned(), "ENUM 'new', 'paid', 'lost'".to_owned());
        let Carry::Flows(carried) = carry(&catalog(), "shop.status", &after, "shop.status") else { panic!() };
        assert!(carried.back.is_some() && carried.forward.is_none());
        after.types.insert("shop.status".to_owned(), "ENUM 'new', 'settled'".to_owned());
        let Carry::Refused(why) = carry(&catalog(), "shop.status", &after, "shop.status") else { panic!() };
        assert!(why.starts_with("'paid' of `shop.status` is renamed or gone"), "{why}");
        after.types.insert("shop.pair".to_owned(), "COMPOSITE a bigint".to_owned());
        assert!(matches!(carry(&catalog(), "shop.pair", &after, "shop.pair"), Carry::Refused(_)));
        assert!(refuses_null(&after, "shop.email") && !refuses_null(&after, "shop.status"));
    }
}
