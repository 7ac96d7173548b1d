//! How text that came from elsewhere is shown to people: names, errors of servers, reasons that others gave.
//!
//! Two lines of defence, and no third. **Where a text of ours takes in a word of somebody else's**, `shown` makes it one line
//! in which everything can be seen: it can neither begin a line that looks like ours nor hide a part of itself. **Where
//! anything is printed**, `shown_lines` does the same once more and keeps line ends, so that a word that was forgotten still
//! moves no cursor and paints nothing. JSON has its own way to write such characters, and is left alone.

/// On one line, with everything that cannot be seen, or changes how the rest looks, written out, such as `\u{1b}`.
pub fn shown(text: &str) -> String {
    written_out(text, |_| false)
}

/// As `shown`, for text of several lines: line ends and tabs stay.
pub fn shown_lines(text: &str) -> String {
    written_out(text, |c| c == '\n' || c == '\t')
}

fn written_out(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) && !stays(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

/// Control characters, and those without a width, that fill, or that turn the direction of the text around them.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_written_out() {
        let hostile = "a\u{1b}[31mred\u{7}\r\nError: b\u{202e}c\u{200b}d\u{9b}\u{7f}";
        assert_eq!(shown(hostile), r"a\u{1b}[31mred\u{7}\u{d}\u{a}Error: b\u{202e}c\u{200b}d\u{9b}\u{7f}");
        assert_eq!(shown_lines("one\n\ttwo\r\u{2066}"), "one\n\ttwo\\u{d}\\u{2066}");
        let fine = r"Größe 表 «é» 'x' \d 🚦";
        assert_eq!((shown(fine).as_str(), shown_lines(fine).as_str()), (fine, fine));
    }
}
