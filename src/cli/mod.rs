//! The command line, one file a command. The only place that prints.
//!
//! Standard output is data, standard error is talk; `--output json` everywhere; every command ends with what is true now
//! and what can be done next.

mod arguments;
mod dry_run;
mod edited;
mod exit;
mod guard;
mod init;
mod journal;
mod lab;
mod meter;
mod plan;
mod playbook;
mod print;
mod report;
mod request;
mod restore;
mod run;
mod salvage;
mod screen;
mod snapshot;
mod state;
mod status;
mod sweep;

pub use arguments::{Arguments, Shared};
pub use exit::Exit;

use crate::engine::EngineError;
use crate::journal::JournalError;
use crate::migrate::{files::Unusable, shadow::ShadowError};
use crate::word::{EndpointError, PortError, shown};
use arguments::{Command, Output};
use clap::CommandFactory;
use std::error::Error;

/// Runs one command to its end.
pub async fn run(arguments: Arguments) -> Exit {
    let shared = arguments.shared;
    let result = match arguments.command {
        Command::Check(command) => Ok(playbook::check(&shared, &command)),
        Command::Schema => Ok(playbook::schema()),
        Command::Init(command) => init::run(&shared, &command).await,
        Command::Plan(command) => plan::run(&shared, &command).await,
        Command::Run(command) => Box::pin(run::run(&shared, &command)).await,
        Command::Status(command) => status::run(&shared, &command).await,
        Command::Approve(command) => request::approve(&shared, &command).await,
        Command::Retry(command) => request::retry(&shared, &command).await,
        Command::MarkDone(command) => request::mark_done(&shared, &command).await,
        Command::Rollback(command) => request::rollback(&shared, &command).await,
        Command::Finish(command) => request::finish(&shared, &command).await,
        Command::Abandon(command) => request::abandon(&shared, &command).await,
        Command::Sweep(command) => sweep::run(&shared, &command).await,
        Command::Snapshot(command) => Box::pin(snapshot::run(&shared, &command)).await,
        Command::Restore(command) => Box::pin(restore::run(&shared, &command)).await,
        Command::Salvage(command) => Box::pin(salvage::run(&shared, &command)).await,
        Command::Report(command) => report::run(&shared, &command).await,
        Command::Journal(command) => journal::run(&shared, &command).await,
        Command::Completions { shell } => completions(shell),
        Command::Lab(command) => Box::pin(lab::run(&shared, command)).await,
        Command::Guard(command) => guard::run(&shared, &command).await,
    };
    match result {
        Ok(exit) => exit,
        Err(error) => {
            let exit = fault(&shared, &error);
            state::say_if_paused(&shared).await;
            exit
        }
    }
}

/// The command line, or the exit code after what was said of it. What clap says may repeat a URL with a password in it.
pub fn arguments() -> Result<Arguments, std::process::ExitCode> {
    use clap::Parser;
    let error = match Arguments::try_parse() {
        Ok(arguments) => return Ok(arguments),
        Err(error) => error,
    };
    Err(usage(&error).into())
}

/// Says an error once, with its causes and, where one is known, what to do; and the exit code it comes to.
pub fn fault(shared: &Shared, error: &anyhow::Error) -> Exit {
    let exit = error.chain().find_map(exit_of).unwrap_or(Exit::Fault);
    let causes: Vec<String> = error.chain().map(in_words).collect();
    let lines: Vec<String> = causes.iter().map(|cause| shown(cause)).collect();
    let hint = error.chain().find_map(hint_of);
    let mut text = format!("error: {}", lines.join("\n  because: "));
    if let Some(hint) = &hint {
        text.push_str("\n  try: ");
        text.push_str(&shown(hint));
    }
    if shared.output == Output::Json {
        let because = &causes[1..];
        let code = error.chain().find_map(code_of).unwrap_or("fault");
        let runs = error.chain().find_map(|cause| cause.downcast_ref::<state::Several>()).map(|several| &several.runs);
        let mut document = serde_json::json!({
            "error": causes[0], "because": because, "hint": hint, "code": code, "exit_code": exit as i32,
        });
        if let Some(runs) = runs {
            document["runs"] = runs.clone();
        }
        print::json(&document);
    }
    print::complain(&text);
    exit
}

/// Errors of ours are fragments that read after "could not".
fn in_words(cause: &(dyn Error + 'static)) -> String {
    let of_port = cause.is::<PortError>() || cause.is::<EndpointError>() || cause.is::<ShadowError>();
    if of_port || cause.is::<EngineError>() || cause.is::<JournalError>() {
        format!("could not {cause}")
    } else {
        cause.to_string()
    }
}

/// For programs: which kind of error it is.
fn code_of(cause: &(dyn Error + 'static)) -> Option<&'static str> {
    if cause.is::<Unusable>() {
        return Some("migrations");
    }
    if cause.is::<state::Unknown>() {
        return Some("no_such_run");
    }
    if cause.is::<state::Several>() {
        return Some("several_runs");
    }
    if cause.is::<EndpointError>() || cause.is::<restore::NoPoint>() {
        return Some("usage");
    }
    if let Some(EngineError::Unreadable { .. }) = cause.downcast_ref() {
        return Some("unreadable_journal");
    }
    if let Some(error) = cause.downcast_ref::<PortError>() {
        return Some(match error.failure {
            crate::word::Failure::Transient => "unreachable",
            crate::word::Failure::Refused => "refused_by_server",
            crate::word::Failure::Uncertain => "uncertain",
        });
    }
    if cause.is::<run::OtherPlan>() {
        return Some("other_plan");
    }
    if cause.is::<ShadowError>() {
        return Some("migrations_not_tried");
    }
    Some(match journal_error(cause)? {
        JournalError::Held { .. } => "held_elsewhere",
        JournalError::Superseded { .. } => "superseded",
        JournalError::UnknownRun(_) => "no_such_run",
        JournalError::NewerFormat { .. } => "newer_journal",
        JournalError::NotWritten { .. } => "journal_not_written",
        JournalError::Vanished { .. } => "journal_gone",
        JournalError::Unreachable { .. } => "no_journal",
    })
}

fn journal_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a JournalError> {
    match cause.downcast_ref::<EngineError>() {
        Some(EngineError::Journal(journal)) => Some(journal),
        _ => cause.downcast_ref::<JournalError>(),
    }
}

fn hint_of(cause: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = cause.downcast_ref::<PortError>() {
        return error.hint.clone();
    }
    if let Some(other) = cause.downcast_ref::<run::OtherPlan>() {
        return Some(other.hint.clone());
    }
    match cause.downcast_ref::<ShadowError>() {
        Some(ShadowError::Unavailable(error)) => return error.hint.clone(),
        Some(ShadowError::Migration(_)) => return Some("mend it and plan again; neither blue nor green was touched".to_owned()),
        None => {}
    }
    Some(match journal_error(cause)? {
        JournalError::Held { .. } => {
            "the run goes on there: `greenlight status` shows it; `approve`, `rollback` and the like are passed on to it"
                .to_owned()
        }
        JournalError::Superseded { .. } => "`greenlight status` shows who drives the run now".to_owned(),
        JournalError::UnknownRun(_) => "`greenlight journal runs` lists the runs; `--state DIR` names another folder".to_owned(),
        JournalError::NewerFormat { .. } => "use the Greenlight that wrote it, or a newer one".to_owned(),
        JournalError::Unreachable { .. } | JournalError::NotWritten { .. } => {
            "the state directory must be on a local disk with room, and belong to this user".to_owned()
        }
        JournalError::Vanished { .. } => {
            "put the state folder back where it was, as it was, and `greenlight run`; if it is lost, `greenlight sweep` lists what \
             the run left on a server"
                .to_owned()
        }
    })
}

fn exit_of(cause: &(dyn Error + 'static)) -> Option<Exit> {
    if let Some(EngineError::Unreadable { .. }) = cause.downcast_ref() {
        return Some(Exit::Journal);
    }
    if cause.is::<run::OtherPlan>() || matches!(cause.downcast_ref(), Some(ShadowError::Migration(_))) {
        return Some(Exit::Refused);
    }
    if cause.is::<Unusable>() {
        return Some(Exit::Playbook);
    }
    let of_usage = cause.is::<restore::NoPoint>() || cause.is::<EndpointError>();
    if of_usage || cause.is::<state::Unknown>() || cause.is::<state::Several>() {
        return Some(Exit::Usage);
    }
    Some(match journal_error(cause)? {
        JournalError::Held { .. } | JournalError::Superseded { .. } => Exit::HeldElsewhere,
        JournalError::UnknownRun(_) => Exit::Usage,
        JournalError::NewerFormat { .. }
        | JournalError::Unreachable { .. }
        | JournalError::NotWritten { .. }
        | JournalError::Vanished { .. } => Exit::Journal,
    })
}

/// Logs go to standard error: warnings as text beside the talk, or, with `--log json`, both as JSON lines and nothing else.
pub fn start_logging(shared: &Shared) {
    use arguments::LogFormat;
    use tracing_subscriber::EnvFilter;
    let level = match (shared.verbose, shared.log) {
        (0, LogFormat::Text) => "warn",
        // The talk itself is of this level.
        (0, LogFormat::Json) => "greenlight::cli=info,warn",
        (1, _) => "greenlight=info,warn",
        _ => "greenlight=debug,info",
    };
    let builder =
        tracing_subscriber::fmt().with_env_filter(EnvFilter::new(level)).with_writer(std::io::stderr).with_ansi(print::colours());
    let started = match shared.log {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    print::talk_as(shared.log);
    if let Err(error) = started {
        print::talk_as(LogFormat::Text);
        print::complain(&format!("could not start logging: {error}"));
    }
}

/// A command line that cannot be read, or that asks for help; in JSON where it says so. What may be a URL is not repeated.
fn usage(error: &clap::Error) -> Exit {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    if matches!(error.kind(), DisplayHelp | DisplayVersion) {
        // Nobody is left to tell that standard output is closed.
        let _ = error.print();
        return Exit::Completed;
    }
    let said = error.render().to_string();
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let values = words.iter().flat_map(|word| word.split_once('=').map(|(_, value)| value).into_iter().chain([word.as_str()]));
    let masked = values
        .filter(|value| value.contains('@') || value.contains("://") || value.contains("password"))
        .fold(said.clone(), |said, value| said.replace(value, "<URL>"));
    if words.iter().any(|word| word == "--output=json") || words.windows(2).any(|pair| pair == ["--output", "json"]) {
        let (said, hint) = masked.split_once("\n\n").map_or((masked.as_str(), None), |(said, rest)| (said, Some(rest.trim())));
        print::json(&serde_json::json!({
            "error": said.trim_start_matches("error: ").trim(), "because": [], "hint": hint, "code": "usage",
            "exit_code": Exit::Usage as i32,
        }));
    }
    if masked == said {
        let _ = error.print();
    } else {
        print::complain(&masked);
    }
    Exit::Usage
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<Exit> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "greenlight", &mut text);
    print::raw(&text)?;
    Ok(Exit::Completed)
}
