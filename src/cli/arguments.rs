//! What can be typed.

use crate::run::StepNo;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Changes a PostgreSQL database without an incident: migrates a replica, proves it, moves the applications over in a pause
/// they hardly notice, and keeps the old primary current as the way back.
#[derive(Debug, Parser)]
#[command(name = "greenlight", version, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(flatten)]
    pub shared: Shared,
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
    0  done: the run is completed, or what was asked of it is so
    1  a fault, or something could not be reached
    2  usage: the command line is off, or the run cannot do now what was asked
    3  the playbook has problems
    4  refused by preflight, or not the plan that was approved
    5  the run waits: for a person, for its hours, or for the end of the soak
    6  a step failed, and the run is held for a person
    7  the run was rolled back whole, and that is not what was asked for
    8  another coordinator holds the run
    9  the journal cannot be used
  130  interrupted; `greenlight run` goes on with the run";

const FOR_EVERY: &str = "For every command";

/// For every command.
#[derive(Clone, Debug, Args)]
pub struct Shared {
    /// The folder of the journal: the truth about every run.
    #[arg(long, global = true, help_heading = FOR_EVERY, value_name = "DIR", env = "GREENLIGHT_STATE", default_value = ".greenlight")]
    pub state: PathBuf,
    /// What standard output holds; in JSON, errors stand there too.
    #[arg(long, global = true, help_heading = FOR_EVERY, value_enum, value_name = "FORM", default_value = "text")]
    pub output: Output,
    /// How standard error is written: for people, or as JSON lines for a log collector.
    #[arg(long, global = true, help_heading = FOR_EVERY, value_enum, value_name = "FORM", default_value = "text")]
    pub log: LogFormat,
    /// Log more; twice: everything.
    #[arg(short, long, global = true, help_heading = FOR_EVERY, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Read a playbook and say everything that is wrong with it. Asks no server.
    Check(CheckArgs),
    /// Print the JSON Schema of playbooks, for editors.
    Schema,
    /// Look at two servers and print a first playbook for them.
    Init(InitArgs),
    /// Look at the servers and show what a run would do. Changes nothing.
    Plan(PlanArgs),
    /// Carry out a playbook; goes on with the run of that playbook if there is an open one.
    Run(RunArgs),
    /// Where a run stands, and whether a rollback would be lossless now.
    Status(StatusArgs),
    /// Open the gate that a run waits at. Comes back when the window is through, or says why it is not open.
    Approve(RequestArgs),
    /// Try a failed step again.
    Retry(RequestArgs),
    /// Say that a stuck step was done by hand.
    MarkDone(MarkDoneArgs),
    /// Move the applications back to blue. Comes back when blue serves; the run then waits before its window.
    Rollback(RollbackArgs),
    /// End the soak: take replication down and retire blue. No way back from here.
    Finish(RequestArgs),
    /// Take everything back and leave blue serving, until `finish` has begun. Where green is lost: with `--without-green`.
    Abandon(AbandonArgs),
    /// List, and with `--remove` take away, what lost runs left on a server.
    Sweep(SweepArgs),
    /// Backups and archived WAL: take, list, verify, prove, prune.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Make a new server from a backup, at a point in time; it stands there for inspection. Nothing that runs is touched.
    Restore(RestoreArgs),
    /// Rows that a damaged server has and a restored one has not: list them, write them, apply them to a server.
    Salvage(SalvageArgs),
    /// What happened: timeline, windows by phase, validation, deviations from the plan.
    Report(ReportArgs),
    /// The records of a run.
    #[command(subcommand)]
    Journal(JournalCommand),
    /// Print completions for a shell.
    Completions {
        /// Such as `greenlight completions bash > /etc/bash_completion.d/greenlight`.
        shell: clap_complete::Shell,
    },
    /// A throwaway world of real servers, for trying everything by hand.
    #[command(subcommand)]
    Lab(LabCommand),
    /// The second process that holds a deadline over a window. Started by a run.
    #[command(hide = true)]
    Guard(GuardArgs),
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The YAML file; `greenlight init` writes a first one.
    pub playbook: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// URL of the server that serves now; `${env:NAME}` and `${file:/path}` stand for secrets.
    #[arg(long, value_name = "URL")]
    pub blue: String,
    /// URL of its physical standby.
    #[arg(long, value_name = "URL")]
    pub green: String,
    /// URL of PgBouncer's admin console (the database `pgbouncer`).
    #[arg(long, value_name = "URL")]
    pub pgbouncer: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The YAML file; `greenlight init` writes a first one.
    pub playbook: PathBuf,
    /// A drawing for Mermaid instead of text.
    #[arg(long)]
    pub mermaid: bool,
    /// Name each table, also the ones that flow without any change.
    #[arg(long)]
    pub all_tables: bool,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The playbook, or an open run by its id or name. Left out: go on with the open run, by the plan that it was created with.
    pub playbook: Option<PathBuf>,
    /// Carry out only the plan with this digest, as `plan` printed it (its beginning is enough).
    #[arg(long, value_name = "DIGEST", value_parser = digest)]
    pub plan: Option<String>,
    /// Come back (exit code 5) instead of waiting for a person, for hours, or for the end of the soak.
    #[arg(long)]
    pub no_wait: bool,
    /// Print the plan and what each step sees of its own work on the servers, without doing anything.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct WhichRun {
    /// The run: its id, a beginning of it, or its playbook's name. The one that is open when left out.
    pub run: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub which: WhichRun,
    /// Look again and again until the run is over.
    #[arg(long)]
    pub watch: bool,
    /// Do not ask the servers whether a rollback would be lossless.
    #[arg(long)]
    pub offline: bool,
}

#[derive(Debug, Args)]
pub(super) struct RequestArgs {
    #[command(flatten)]
    pub which: WhichRun,
    /// Why, for the record.
    #[arg(long)]
    pub reason: Option<String>,
    /// Who asks, for the record; this user on this machine when left out.
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
    /// Come back (exit code 5) also where the run stands still before what you ask for is so. Without it the command comes back
    /// when that is so, or when only a person can move the run on.
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Args)]
pub(super) struct MarkDoneArgs {
    /// The step's number in the plan.
    #[arg(long, value_parser = step_number)]
    pub step: StepNo,
    #[command(flatten)]
    pub request: RequestArgs,
}

fn digest(text: &str) -> Result<String, String> {
    // So short a beginning would be met by chance.
    let enough = text.len() >= 8 && text.chars().all(|c| c.is_ascii_hexdigit());
    if enough {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("a digest is at least 8 hexadecimal digits, as `plan` prints them".to_owned())
    }
}

fn step_number(text: &str) -> Result<StepNo, String> {
    let number: usize = text.parse().map_err(|_| "a step is named by its number in the plan".to_owned())?;
    number.checked_sub(1).map(StepNo).ok_or_else(|| "steps count from 1".to_owned())
}

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// Leave a way back that has begun and on which the applications have not been moved yet: green goes on serving.
    #[arg(long)]
    pub stop: bool,
    #[command(flatten)]
    pub request: RequestArgs,
}

#[derive(Debug, Args)]
pub(super) struct AbandonArgs {
    /// Do not try to reach green. If green serves, what it took and blue has not is lost.
    #[arg(long)]
    pub without_green: bool,
    /// Take a change in place back by a restore to just before it, and move the applications there. What they wrote since
    /// stays on blue.
    #[arg(long, conflicts_with = "without_green")]
    pub restore: bool,
    #[command(flatten)]
    pub request: RequestArgs,
}

#[derive(Debug, Args)]
pub(super) struct SweepArgs {
    /// URL of the server to look at; `${env:NAME}` and `${file:/path}` stand for secrets.
    pub url: String,
    /// Take away what belongs to no open run of this state directory.
    #[arg(long)]
    pub remove: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum SnapshotCommand {
    /// Take a backup, verify it, and see that WAL reaches the archive now.
    Take(SnapshotTakeArgs),
    /// The backups, the restore points, what can be reached, and what was made on the server.
    List(SnapshotArgs),
    /// Read backups against their manifests.
    Verify(VerifyArgs),
    /// Restore to a throwaway server, run the playbook's assertions on it, and remove it.
    Prove(SnapshotArgs),
    /// Which backups the playbook's retention lets go; what open runs and restore points need stays.
    Prune(PruneArgs),
    /// Name this moment, to restore to.
    Point(PointArgs),
    /// Keep nothing for this restore point any more.
    Forget(PointArgs),
    /// Take away what the store made on the server: the receiver of WAL and its slot.
    Stop(SnapshotArgs),
}

#[derive(Debug, Args)]
pub(super) struct SnapshotArgs {
    pub playbook: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct SnapshotTakeArgs {
    pub playbook: PathBuf,
    /// Restore it to a throwaway server, also where the playbook does not ask for it.
    #[arg(long)]
    pub prove: bool,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    pub playbook: PathBuf,
    /// One backup; every whole one when left out.
    pub backup: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    pub playbook: PathBuf,
    /// Remove them; without it they are only listed.
    #[arg(long)]
    pub remove: bool,
}

#[derive(Debug, Args)]
pub(super) struct PointArgs {
    pub playbook: PathBuf,
    pub name: String,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    pub playbook: PathBuf,
    /// `latest`, a time with its zone (2026-01-05T10:00:00+01:00), a place in the log (16/B374D848), `xid:735`, `point:NAME`,
    /// or `run:r1a2b3c4`: just before that run's first change.
    #[arg(long, value_name = "POINT", required_unless_present_any = ["promote", "discard"])]
    pub to: Option<String>,
    /// The data folder, absolute, which must be empty or absent.
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
    /// A free port.
    #[arg(long, required_unless_present_any = ["promote", "discard"])]
    pub port: Option<u16>,
    /// The machine: `local`, or `ssh://user@host`. That of the store when left out.
    #[arg(long, value_name = "HOST")]
    pub on: Option<String>,
    /// The folder of the PostgreSQL programs on that machine.
    #[arg(long, value_name = "DIR", requires = "on")]
    pub bin_dir: Option<PathBuf>,
    /// The timeline to follow, where the archive holds several. The backup's own when left out.
    #[arg(long)]
    pub timeline: Option<u32>,
    /// Say everything that can be known before, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Open the restored server for writing.
    #[arg(long, conflicts_with_all = ["to", "discard"])]
    pub promote: bool,
    /// Stop the restored server and remove its folder.
    #[arg(long, conflicts_with_all = ["to", "promote"])]
    pub discard: bool,
}

#[derive(Debug, Args)]
pub(super) struct SalvageArgs {
    /// URL of the damaged server; `${env:NAME}` and `${file:/path}` stand for secrets.
    #[arg(long, value_name = "URL")]
    pub damaged: String,
    /// URL of the restored server.
    #[arg(long, value_name = "URL")]
    pub restored: String,
    /// Only this table, as `public.orders`; may be given several times.
    #[arg(long)]
    pub table: Vec<String>,
    /// Write the rows into this folder, a file for each table.
    #[arg(long, value_name = "DIR", conflicts_with = "apply_to")]
    pub out: Option<PathBuf>,
    /// How to write them.
    #[arg(long, value_enum, default_value = "sql")]
    pub format: SalvageFormat,
    /// Put the rows into the server at this URL; each table in one transaction, which is taken back without `--commit`.
    #[arg(long, value_name = "URL")]
    pub apply_to: Option<String>,
    /// Where that server has a row of the same key.
    #[arg(long, value_enum, default_value = "keep")]
    pub on_conflict: Conflict,
    /// Keep what was put in.
    #[arg(long, requires = "apply_to")]
    pub commit: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum SalvageFormat {
    Sql,
    Csv,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Conflict {
    /// The row stays as it is.
    Keep,
    /// The row takes the salvaged values.
    Overwrite,
    /// Nothing of the table is written.
    Stop,
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    #[command(flatten)]
    pub which: WhichRun,
    /// Markdown instead of text.
    #[arg(long)]
    pub markdown: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum JournalCommand {
    /// Print each record of a run.
    Show(WhichRun),
    /// List the runs of the state directory.
    Runs,
}

#[derive(Debug, Subcommand)]
pub(super) enum LabCommand {
    /// Start blue, its standby, PgBouncer and a shop-like database, and print the playbook to run next.
    Up(LabArgs),
    /// Stop and remove what `up` started.
    Down(LabArgs),
    /// Cutover, rollback, cutover and finish under live writes, then a summary of what clients saw.
    Demo(LabArgs),
    /// Many cutovers and rollbacks under load, measured.
    Bench(BenchArgs),
    /// Many windows under load, each struck at a random moment by a kill, a full disk, a lock or a broken file.
    Campaign(CampaignArgs),
}

#[derive(Clone, Debug, Args)]
pub(super) struct LabArgs {
    /// Where the throwaway world lives; the server user must be able to read it.
    #[arg(long, value_name = "DIR", default_value = "/tmp/greenlight-lab")]
    pub dir: PathBuf,
    /// PostgreSQL's major version.
    #[arg(long, default_value = "15")]
    pub postgres: u32,
    /// How much data: 1 is a few hundred thousand rows.
    #[arg(long, default_value = "1")]
    pub scale: u32,
    /// Folders of PostgreSQL programs, separated by colons, besides the usual ones.
    #[arg(long, env = "GREENLIGHT_PG_DIRS", hide_env_values = true)]
    pub pg_dirs: Option<std::ffi::OsString>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    pub lab: LabArgs,
    /// Cutovers; each is followed by a rollback.
    #[arg(long, default_value = "20")]
    pub rounds: u32,
    /// Transactions a second, over all clients.
    #[arg(long, default_value = "1000")]
    pub rate: u32,
    /// Tables for the measurement of preflight and plan.
    #[arg(long, default_value = "10000")]
    pub tables: u32,
    /// MiB of data, and of WAL, for the measurement of a restore.
    #[arg(long, default_value = "1024")]
    pub restore_mib: u64,
    /// Measure the longest waits outside the window only.
    #[arg(long)]
    pub only_stalls: bool,
}

#[derive(Clone, Debug, Args)]
pub(super) struct CampaignArgs {
    #[command(flatten)]
    pub lab: LabArgs,
    /// How many windows are opened, whether they move the writer or go back.
    #[arg(long, default_value = "100")]
    pub windows: u32,
    /// The same seed draws the same victims and moments.
    #[arg(long, default_value = "1")]
    pub seed: u64,
    /// Transactions a second, over all clients.
    #[arg(long, default_value = "150")]
    pub rate: u32,
    /// Leave the world standing when something was not as it must be.
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, Args)]
pub(super) struct GuardArgs {
    #[arg(long)]
    pub run: String,
    #[arg(long)]
    pub within_ms: u64,
    #[arg(long)]
    pub parent: u32,
}
