use super::shown::is_hidden;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A name as an SQL identifier: always quoted, so that spaces, capitals, quotes and Unicode are safe.
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as an SQL string constant, for the statements that take no parameters (DDL). Correct whatever
/// `standard_conforming_strings` is.
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// A name as an SQL identifier for people to read and to paste: as `quote_ident`, but what cannot be seen is written out, as
/// `U&"x\\000A"`. The reader of names inside of a text, such as `regclass`, does not know that form.
pub fn shown_ident(name: &str) -> String {
    if !name.contains(is_hidden) {
        return quote_ident(name);
    }
    let doubled = name.replace('\\', "\\\\");
    format!("U&{}", quote_ident(&written_out(&doubled, |c| format!("\\+{:06X}", u32::from(c)))))
}

/// A text as an SQL string constant for people to read and to paste: as `quote_literal`, but what cannot be seen is written
/// out.
pub fn shown_literal(text: &str) -> String {
    if !text.contains(is_hidden) {
        return quote_literal(text);
    }
    let doubled = text.replace('\\', "\\\\").replace('\'', "''");
    format!("E'{}'", written_out(&doubled, |c| format!("\\U{:08X}", u32::from(c))))
}

fn written_out(text: &str, as_code: impl Fn(char) -> String) -> String {
    text.chars().map(|c| if is_hidden(c) { as_code(c) } else { c.to_string() }).collect()
}

/// A table, index, view or sequence: schema and name, unquoted. `sql` writes it quoted for SQL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RelationName {
    pub schema: String,
    pub name: String,
}

impl RelationName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> RelationName {
        RelationName { schema: schema.into(), name: name.into() }
    }

    pub fn sql(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }

    /// As `sql`, for people to read and to paste.
    pub fn shown_sql(&self) -> String {
        format!("{}.{}", shown_ident(&self.schema), shown_ident(&self.name))
    }
}

/// For people: quoted only where PostgreSQL would need it, and on one line whatever is in it.
impl fmt::Display for RelationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        let show = |part: &str| if plain(part) { part.to_owned() } else { shown_ident(part) };
        write!(f, "{}.{}", show(&self.schema), show(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_that_need_quoting_are_quoted() {
        assert_eq!(quote_ident(r#"we"ird Name"#), r#""we""ird Name""#);
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\b'c"), r" E'a\\b''c'");
        assert_eq!(RelationName::new("public", "orders").to_string(), "public.orders");
        assert_eq!(RelationName::new("public", "Orders").to_string(), "public.\"Orders\"");
    }

    #[test]
    fn a_name_that_hides_something_is_shown_as_sql_that_means_the_same() {
        let hostile = RelationName::new("public", "x\u{1b}[31m\\\"\nError: fake\u{202e}");
        assert_eq!(hostile.to_string(), r#"public.U&"x\+00001B[31m\\""\+00000AError: fake\+00202E""#);
        assert_eq!(hostile.shown_sql(), r#""public".U&"x\+00001B[31m\\""\+00000AError: fake\+00202E""#);
        assert_eq!(shown_literal("it's\n\\"), r"E'it''s\U0000000A\\'");
        assert_eq!((shown_ident("O\"x"), shown_literal("a'b")), (quote_ident("O\"x"), quote_literal("a'b")));
    }
}
