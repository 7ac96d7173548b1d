//! YAML -> `Playbook`: what a person says should happen. All problems at once, each with file, line, column and what to
//! write instead.
//!
//! **Invariant:** reads files, asks no server.
