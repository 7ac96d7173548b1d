//! The one place that prints. Standard output is data, standard error is talk.

use serde::Serialize;

/// Data, for people or programs, to standard output.
#[expect(clippy::print_stdout, reason = "the one place that prints data")]
pub(in crate::cli) fn data(text: &str) {
    println!("{}", text.trim_end());
}

/// Data as JSON to standard output.
pub(in crate::cli) fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => data(&text),
        Err(error) => say(&format!("could not write JSON: {error}")),
    }
}

/// Talk, to standard error.
#[expect(clippy::print_stderr, reason = "the one place that talks")]
pub(in crate::cli) fn say(text: &str) {
    eprintln!("{}", text.trim_end());
}

/// Data without a line end of its own, byte by byte: completions, generated files.
pub(in crate::cli) fn raw(bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    std::io::stdout().write_all(bytes)
}
