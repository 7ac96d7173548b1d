use std::process::ExitCode;

/// What the exit code says. Documented in the README; scripts build on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or completed.
    Completed = 0,
    /// A fault in the tool, or something that it could not reach.
    Fault = 1,
    /// The command line is off.
    Usage = 2,
    /// The playbook has problems.
    Playbook = 3,
    /// Preflight refused, or the plan is not the one that was approved.
    Refused = 4,
    /// The run waits: for a person, for its hours, or for the end of the soak.
    Waiting = 5,
    /// A step failed, and the run is held for a person.
    Held = 6,
    /// The run was rolled back whole.
    RolledBack = 7,
    /// Another coordinator holds the run.
    HeldElsewhere = 8,
    /// The journal cannot be read or written.
    Journal = 9,
    /// Ctrl-C. The run can be resumed.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}
