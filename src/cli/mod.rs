//! The command line, one file a command. The only place that prints.
//!
//! Standard output is data, standard error is talk; `--output json` everywhere; every command ends with what is true now
//! and what can be done next.

mod arguments;
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
use crate::word::PortError;
use arguments::Command;
use clap::CommandFactory;

/// Runs one command to its end.
pub async fn run(arguments: Arguments) -> Exit {
    let shared = arguments.shared;
    let result = match arguments.command {
        Command::Check(command) => playbook::check(&shared, &command),
        Command::Schema => playbook::schema(),
        Command::Init(command) => init::run(&command).await,
        Command::Plan(command) => plan::run(&shared, &command).await,
        Command::Run(command) => run::run(&shared, &command).await,
        Command::Status(command) => status::run(&shared, &command).await,
        Command::Approve(command) => request::approve(&shared, &command).await,
        Command::Retry(command) => request::retry(&shared, &command).await,
        Command::MarkDone(command) => request::mark_done(&shared, &command).await,
        Command::Rollback(command) => request::rollback(&shared, &command).await,
        Command::Finish(command) => request::finish(&shared, &command).await,
        Command::Abandon(command) => request::abandon(&shared, &command).await,
        Command::Sweep(command) => sweep::run(&shared, &command).await,
        Command::Snapshot(command) => snapshot::run(&shared, &command).await,
        Command::Restore(command) => restore::run(&shared, &command).await,
        Command::Salvage(command) => salvage::run(&shared, &command).await,
        Command::Report(command) => report::run(&shared, &command).await,
        Command::Journal(command) => journal::run(&shared, &command).await,
        Command::Completions { shell } => completions(shell),
        Command::Lab(command) => lab::run(&shared, command).await,
        Command::Guard(command) => guard::run(&shared, &command).await,
    };
    result.unwrap_or_else(|error| fault(&error))
}

/// Says an error once, with its causes and, where one is known, what to do; and the exit code it comes to.
pub fn fault(error: &anyhow::Error) -> Exit {
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1) {
        text.push_str("\n  because: ");
        text.push_str(&cause.to_string());
    }
    if let Some(hint) = error.chain().find_map(|cause| cause.downcast_ref::<PortError>()?.hint.as_deref()) {
        text.push_str("\n  try: ");
        text.push_str(hint);
    }
    print::say(&text);
    error.chain().find_map(exit_of).unwrap_or(Exit::Fault)
}

fn exit_of(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    let journal = match cause.downcast_ref::<EngineError>() {
        Some(EngineError::Journal(journal)) => Some(journal),
        Some(EngineError::Unreadable { .. }) => return Some(Exit::Journal),
        None => cause.downcast_ref::<JournalError>(),
    };
    journal.map(|error| match error {
        JournalError::Held { .. } | JournalError::Superseded { .. } => Exit::HeldElsewhere,
        JournalError::UnknownRun(_) => Exit::Usage,
        JournalError::NewerFormat { .. } | JournalError::Unreachable { .. } => Exit::Journal,
    })
}

/// Logs go to standard error: warnings as text, everything as JSON lines with `--log json`.
pub fn start_logging(shared: &Shared) {
    use tracing_subscriber::EnvFilter;
    let level = match shared.verbose {
        0 => "warn",
        1 => "greenlight=info,warn",
        _ => "greenlight=debug,info",
    };
    let builder = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(level)).with_writer(std::io::stderr);
    let started = match shared.log {
        arguments::LogFormat::Text => builder.with_target(false).try_init(),
        arguments::LogFormat::Json => builder.json().try_init(),
    };
    if let Err(error) = started {
        print::say(&format!("could not start logging: {error}"));
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<Exit> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "greenlight", &mut text);
    print::raw(&text)?;
    Ok(Exit::Completed)
}
