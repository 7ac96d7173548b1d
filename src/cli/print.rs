//! The one place that prints. Standard output is data, standard error is talk.
//!
//! What is printed as text has nothing in it that a terminal would obey; `word::shown` says how. Colours are of two texts only,
//! a playbook's problems and log lines, and only where `colours` allows them.

use super::arguments::LogFormat;
use crate::word::{shown, shown_lines};
use anstream::{AutoStream, ColorChoice};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{self, Write};
use std::sync::OnceLock;

/// How talk is written; text until said otherwise. A log collector that reads JSON lines can read nothing else.
static TALK: OnceLock<LogFormat> = OnceLock::new();

/// Said once, before anything is printed.
pub(in crate::cli) fn talk_as(format: LogFormat) {
    let _ = TALK.set(format);
}

/// Whether standard error takes colours: a terminal that is not `dumb`, by `NO_COLOR`, `CLICOLOR` and `CLICOLOR_FORCE`.
pub(in crate::cli) fn colours() -> bool {
    // Where `CI` is set, the choice by itself takes any terminal for one that shows colours.
    let is_dumb = crate::wire::environment("TERM").is_some_and(|term| term == "dumb");
    AutoStream::choice(&io::stderr()) != ColorChoice::Never && !is_dumb
}

/// Data, for people or programs, to standard output.
pub(in crate::cli) fn data(text: &str) {
    put(&shown_lines(text.trim_end()));
}

/// Data as JSON to standard output.
pub(in crate::cli) fn json(value: &impl Serialize) {
    json_text(serde_json::to_string_pretty(value));
}

/// Data as one line of JSON to standard output.
pub(in crate::cli) fn json_line(value: &impl Serialize) {
    json_text(serde_json::to_string(value));
}

fn json_text(text: serde_json::Result<String>) {
    match text {
        Ok(text) => put(&text),
        Err(error) => say(&format!("could not write JSON: {error}")),
    }
}

fn put(text: &str) {
    if let Err(error) = raw(format!("{text}\n").as_bytes()) {
        say(&format!("could not write to standard output: {error}"));
    }
}

/// Talk, to standard error.
pub(in crate::cli) fn say(text: &str) {
    talk(&shown_lines(text), |line| tracing::info!("{line}"));
}

/// What went wrong, to standard error.
pub(in crate::cli) fn complain(text: &str) {
    talk(&shown_lines(text), |line| tracing::error!("{line}"));
}

/// As `complain`, of a text that was made with colours or without, as `colours` says, from data that is shown already.
pub(in crate::cli) fn complain_in_colours(text: &str) {
    if !colours() || TALK.get() == Some(&LogFormat::Json) {
        return complain(text);
    }
    let mut parts = text.split('\u{1b}');
    let mut painted = shown_lines(parts.next().unwrap_or_default());
    for part in parts {
        // A change of colour, and nothing else, is let through.
        let end = part.find('m').filter(|end| part[..*end].chars().all(|c| c == '[' || c == ';' || c.is_ascii_digit()));
        let (code, rest) = part.split_at(end.map_or(0, |end| end + 1));
        if code.is_empty() {
            painted.push_str(&shown("\u{1b}"));
        } else {
            painted.extend(["\u{1b}", code]);
        }
        painted += &shown_lines(rest);
    }
    talk(&painted, |_| {});
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

/// A line that says what is being done now, on a terminal that can take it back again. Elsewhere it is not there.
#[derive(Debug)]
pub(in crate::cli) struct Spinner(ProgressBar);

impl Spinner {
    pub(in crate::cli) fn new() -> Spinner {
        let bar = ProgressBar::new_spinner();
        if crate::wire::environment("TERM").is_none_or(|term| term == "dumb") {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {wide_msg}") {
            bar.set_style(style);
        }
        Spinner(bar)
    }

    pub(in crate::cli) fn turn(&self) {
        self.0.enable_steady_tick(std::time::Duration::from_millis(120));
    }

    pub(in crate::cli) fn say(&self, text: &str) {
        self.0.set_message(shown(text));
    }

    /// Prints while it is out of the way.
    pub(in crate::cli) fn aside(&self, print: impl FnOnce()) {
        self.0.suspend(print);
    }

    pub(in crate::cli) fn clear(&self) {
        self.0.finish_and_clear();
    }
}
