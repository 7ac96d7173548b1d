//! One text for one meaning. PostgreSQL deparses an expression a little differently after it was dumped and loaded once
//! (`'a'::varchar` inside an array becomes `('a'::varchar)::text`), so parentheses, casts and spaces are left out here.
//! Quoted texts and names are kept as they are.

/// The text without parentheses, casts and spaces outside quotes.
pub(super) fn canonical(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if next == '\'' || next == '"' {
            let end = quoted_len(rest, next);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else if rest.starts_with("::") {
            rest = after_type(&rest[2..]);
        } else {
            if !next.is_whitespace() && next != '(' && next != ')' {
                out.push(next);
            }
            rest = &rest[next.len_utf8()..];
        }
    }
    out
}

/// Whether the text names this column: as a word of its own, outside quoted texts.
pub(super) fn mentions(text: &str, column: &str) -> bool {
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let end = match next {
            '\'' | '"' => quoted_len(rest, next),
            _ => rest.find(|c| !is_word(c)).unwrap_or(rest.len()).max(next.len_utf8()),
        };
        let word = &rest[..end];
        if word == column || (next == '"' && word == crate::word::quote_ident(column)) {
            return true;
        }
        rest = &rest[end..];
    }
    false
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Bytes of the quoted text at the beginning; a doubled quote inside it reads as two such texts, which is the same here.
fn quoted_len(text: &str, quote: char) -> usize {
    text[1..].find(quote).map_or(text.len(), |at| at + 2)
}

/// What follows the name of a type.
fn after_type(text: &str) -> &str {
    let mut rest = text;
    loop {
        let end = match rest.chars().next() {
            Some('"') => quoted_len(rest, '"'),
            _ => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
        };
        rest = &rest[end..];
        match rest.strip_prefix('.') {
            Some(after) => rest = after,
            None => break,
        }
    }
    let strip = |text: &str, word: &str| text.strip_prefix(word).map(str::len);
    let skip = |rest: &mut &str, words: &[&str]| {
        if let Some(left) = words.iter().find_map(|word| strip(rest, word)) {
            *rest = &rest[rest.len() - left..];
        }
    };
    skip(&mut rest, &[" varying", " precision"]);
    if rest.starts_with('(')
        && let Some(close) = rest.find(')')
        && rest[1..close].chars().all(|c| c.is_ascii_digit() || c == ',')
    {
        rest = &rest[close + 1..];
    }
    skip(&mut rest, &[" without time zone", " with time zone"]);
    while let Some(after) = rest.strip_prefix("[]") {
        rest = after;
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_reads_the_same_before_and_after_a_dump() {
        let loaded = "CHECK (((status)::text = ANY (ARRAY[('new'::character varying)::text, ('o k'::character varying)::text])))";
        let first = "CHECK (((status)::text = ANY ((ARRAY['new'::character varying, 'o k'::character varying])::text[])))";
        assert_eq!(canonical(first), canonical(loaded));
        assert_eq!(canonical("'(a::b) ''c'::character varying(10)"), "'(a::b) ''c'");
        assert_eq!(canonical("now()::timestamp(3) without time zone + x"), "now+x");
        assert_eq!(canonical("x::shop.\"My Type\"[] > 1"), "x>1");
        assert_ne!(canonical("CHECK (a > 1)"), canonical("CHECK (a > 2)"));
    }

    #[test]
    fn a_column_is_found_as_a_word_of_its_own() {
        assert!(mentions("CHECK ((price > 0))", "price"));
        assert!(!mentions("CHECK ((list_price > 0))", "price"));
        assert!(!mentions("CHECK ((kind <> 'price'::text))", "price"));
        assert!(mentions("CHECK ((\"Unit Price\" > 0))", "Unit Price"));
    }
}
