//! The one place that prints. Standard output is data, standard error is talk.

use super::arguments::LogFormat;
use serde::Serialize;
use std::io::{self, Write};
use std::sync::OnceLock;

/// How talk is written; text until said otherwise. A log collector that reads JSON lines can read nothing else.
static TALK: OnceLock<LogFormat> = OnceLock::new();

/// Said once, before anything is printed.
pub(in crate::cli) fn talk_as(format: LogFormat) {
    let _ = TALK.set(format);
}

/// Data, for people or programs, to standard output.
pub(in crate::cli) fn data(text: &str) {
    let mut text = text.trim_end().to_owned();
    text.push('\n');
    if let Err(error) = raw(text.as_bytes()) {
        say(&format!("could not write to standard output: {error}"));
    }
}

/// Data as JSON to standard output.
pub(in crate::cli) fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => data(&text),
        Err(error) => say(&format!("could not write JSON: {error}")),
    }
}

/// Talk, to standard error.
pub(in crate::cli) fn say(text: &str) {
    talk(text, |line| tracing::info!("{line}"));
}

/// What went wrong, to standard error.
pub(in crate::cli) fn complain(text: &str) {
    talk(text, |line| tracing::error!("{line}"));
}

fn talk(text: &str, log: impl Fn(&str)) {
    let text = text.trim_end();
    if TALK.get() == Some(&LogFormat::Json) {
        return log(text.trim());
    }
    // Nobody is left to tell that standard error is closed; a run must not end for it.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Data without a line end of its own, byte by byte: completions, generated files. A reader that has seen enough, such as
/// `head`, is no error.
pub(in crate::cli) fn raw(bytes: &[u8]) -> io::Result<()> {
    match io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
