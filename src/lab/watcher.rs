//! A small process that removes a world when the one that made it was killed: then nothing is dropped, and nobody else
//! would end the servers.

use crate::process::{self, ServerUser};
use crate::word::PortError;
use std::{
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Stdio},
};

/// Watches over one world until it is dismissed.
#[derive(Debug)]
pub struct Watcher(Child);

impl Watcher {
    /// With it go the processes of a spare `user`.
    ///
    /// # Errors
    /// `Refused` when the process cannot be started.
    pub fn over(folder: &Path, user: ServerUser) -> Result<Watcher, PortError> {
        let mut command = process::new_command(Path::new("/bin/sh"));
        let command = command.as_std_mut().arg("-c").arg(include_str!("remove_orphan.sh")).arg(folder).current_dir("/");
        if let ServerUser::Spare(id) = user {
            command.arg(id.to_string());
        }
        // In a process group of its own: Ctrl-C is for the one that it watches.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        command.spawn().map(Watcher).map_err(|e| PortError::refused("start a watcher over the lab").because(e))
    }

    /// The world is gone, or is to stay.
    pub fn dismiss(mut self) {
        if let Some(mut stdin) = self.0.stdin.take() {
            // It may have ended by itself: then there is nobody to dismiss.
            let _ = stdin.write_all(b"dismissed\n");
        }
        let _ = self.0.wait();
    }
}
