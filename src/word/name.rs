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
}

/// For people: quoted only where PostgreSQL would need it.
impl fmt::Display for RelationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        let show = |part: &str| if plain(part) { part.to_owned() } else { quote_ident(part) };
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
}
