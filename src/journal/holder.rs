use std::{fmt, fs, time::Duration};

/// The process that holds a lease, described so well that another process of the same machine can tell whether it still
/// lives. A process number alone cannot: numbers are used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderProcess {
    pub pid: u32,
    pub host: String,
    /// Of this start of the machine.
    pub boot_id: String,
    /// Process numbers mean something within one of these only; containers have their own.
    pub pid_namespace: String,
    /// Clock ticks from the machine's start to the process's, from `/proc/PID/stat`.
    pub started: u64,
}

impl HolderProcess {
    /// The process that asks. What the system does not say is left empty, and such a holder is never taken for gone.
    pub fn this() -> HolderProcess {
        HolderProcess::of(std::process::id())
    }

    /// Another process of this machine, which can be seen from here.
    pub fn of(pid: u32) -> HolderProcess {
        HolderProcess {
            pid,
            host: read_line("/proc/sys/kernel/hostname"),
            boot_id: read_line("/proc/sys/kernel/random/boot_id"),
            pid_namespace: fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default(),
            started: life_of(pid).map_or(0, |life| life.started),
        }
    }

    /// Whether both are of the same start of the same machine.
    pub fn shares_uptime(&self, holder: &HolderProcess) -> bool {
        !self.boot_id.is_empty() && self.boot_id == holder.boot_id
    }

    /// Whether `holder` is surely gone, as far as this process can see. A process of another machine, of another
    /// container or of an earlier start of the machine may be anything: only its lease's end counts.
    pub fn sees_gone(&self, holder: &HolderProcess) -> bool {
        let comparable = !self.boot_id.is_empty()
            && !self.pid_namespace.is_empty()
            && holder.started != 0
            && self.boot_id == holder.boot_id
            && self.pid_namespace == holder.pid_namespace;
        comparable && life_of(holder.pid).is_none_or(|life| life.ended || life.started != holder.started)
    }
}

/// For people, such as `pid 4711 on db-admin-1`.
impl fmt::Display for HolderProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} on {}", self.pid, self.host)
    }
}

/// Since the machine's start, its sleep included: a clock that cannot be set. `None` where the system does not say.
pub(super) fn uptime() -> Option<Duration> {
    let seconds = fs::read_to_string("/proc/uptime").ok()?.split(' ').next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

struct Life {
    started: u64,
    /// Killed, and not yet collected by its parent.
    ended: bool,
}

/// `None`: there is no such process, or this system has no `/proc`.
fn life_of(pid: u32) -> Option<Life> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may itself hold spaces and parentheses.
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ');
    let ended = matches!(fields.next()?, "Z" | "X");
    let started = fields.nth(18)?.parse().ok()?;
    Some(Life { started, ended })
}

fn read_line(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_not_gone_and_its_number_used_again_is() {
        let this = HolderProcess::this();
        assert!(this.started > 0);
        assert!(!this.sees_gone(&this));
        assert!(this.sees_gone(&HolderProcess { started: this.started - 1, ..this.clone() }));
    }

    #[test]
    fn a_process_that_cannot_be_seen_from_here_is_never_taken_for_gone() {
        let this = HolderProcess::this();
        let dead = HolderProcess { pid: u32::MAX, ..this.clone() };
        assert!(this.sees_gone(&dead));
        assert!(!this.sees_gone(&HolderProcess { boot_id: "another".to_owned(), ..dead.clone() }));
        assert!(!this.sees_gone(&HolderProcess { pid_namespace: "pid:[1]".to_owned(), ..dead.clone() }));
        assert!(!this.sees_gone(&HolderProcess { started: 0, ..dead }));
    }
}
