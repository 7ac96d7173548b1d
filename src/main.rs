//! Parse, run, exit code.

use greenlight::cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    // What this process was given is for no other process of the same user to read, nor for a core file.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let arguments = match cli::arguments() {
        Ok(arguments) => arguments,
        Err(exit) => return exit,
    };
    cli::start_logging(&arguments.shared);
    // One provider for all of TLS, chosen before anything connects.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(cli::run(arguments)).into(),
        Err(error) => cli::fault(&arguments.shared, &anyhow::Error::new(error).context("could not start the runtime")).into(),
    }
}
