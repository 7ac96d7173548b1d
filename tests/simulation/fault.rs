//! Every call of a port and every append to the journal is numbered; a fault is named by the number that it strikes.

use crate::world::{SECOND, Shared, World};
use greenlight::word::{Failure, PortError, Side};
use std::{fmt, future::pending, sync::atomic::Ordering};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process is killed before it sends anything.
    CrashBefore,
    /// The process is killed when everything has happened.
    CrashAfter,
    /// The process is killed when half of it has happened.
    CrashHalf,
    /// The process is killed with its statement under way, which takes effect only after the next change that another
    /// process makes on that server; unless its session is ended first.
    CrashLate,
    /// The same, after the third such change.
    CrashVeryLate,
    Transient,
    Refused,
    /// It happened all the same.
    RefusedLate,
    UncertainUndone,
    UncertainHalf,
    UncertainDone,
    /// The connection is lost with the statement under way, which takes effect only after the next change to that server;
    /// unless its session is ended first.
    UncertainLate,
    /// Takes longer than the longest pause.
    Slow,
    /// An append that is written at once, and whose answer takes as long.
    WrittenSlowly,
    /// The server is restarted: nothing happened, and every session to it is gone.
    Restarted,
    RestartedDone,
    /// The server is down for a while; nothing happened.
    Outage,
    /// A look shows what it should not.
    Odd,
    /// An append that failed for all that can be seen, and is written.
    UnreachableWritten,
    UnreachableUnwritten,
    /// It is certain that nothing was written.
    NotWritten,
    /// The same of every write for a minute: the disk is full, or another process holds the lock.
    Full,
    /// Another process has taken the lease.
    Usurped,
}

use Fault::{
    CrashAfter, CrashBefore, CrashHalf, CrashLate, CrashVeryLate, Full, NotWritten, Odd, Outage, Refused, RefusedLate, Restarted,
    RestartedDone, Slow, Transient, UncertainDone, UncertainHalf, UncertainLate, UncertainUndone, UnreachableUnwritten,
    UnreachableWritten, Usurped, WrittenSlowly,
};

/// What kind of call has a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Changes nothing.
    Read,
    /// The same, with an answer that may be odd.
    Look,
    /// Changes a server.
    Change,
    /// Changes a server in more than one statement.
    ChangeInParts,
    /// Changes something else.
    Touch,
    TouchInParts,
    /// Appends to the journal.
    Append,
    /// Any other write to the journal.
    Journal,
}

impl Kind {
    fn changes(self) -> bool {
        matches!(self, Kind::Change | Kind::ChangeInParts | Kind::Touch | Kind::TouchInParts)
    }

    /// Every fault that can strike.
    pub(crate) fn faults(self) -> &'static [Fault] {
        match self {
            Kind::Read => &[Transient, Slow, Restarted, Outage],
            Kind::Look => &[Transient, Slow, Restarted, Outage, Odd],
            Kind::Change => &[
                CrashBefore,
                CrashAfter,
                CrashLate,
                CrashVeryLate,
                Transient,
                Refused,
                RefusedLate,
                UncertainUndone,
                UncertainDone,
                UncertainLate,
                Slow,
                Restarted,
                RestartedDone,
                Outage,
            ],
            Kind::ChangeInParts => &[
                CrashBefore,
                CrashAfter,
                CrashHalf,
                CrashLate,
                CrashVeryLate,
                Transient,
                Refused,
                RefusedLate,
                UncertainUndone,
                UncertainHalf,
                UncertainDone,
                UncertainLate,
                Slow,
                Restarted,
                RestartedDone,
                Outage,
            ],
            Kind::Touch => &[CrashBefore, CrashAfter, Transient, Refused, RefusedLate, UncertainUndone, UncertainDone, Slow],
            Kind::TouchInParts => &[
                CrashBefore,
                CrashAfter,
                CrashHalf,
                Transient,
                Refused,
                RefusedLate,
                UncertainUndone,
                UncertainHalf,
                UncertainDone,
                Slow,
            ],
            Kind::Append => &[
                CrashBefore,
                CrashAfter,
                UnreachableWritten,
                UnreachableUnwritten,
                NotWritten,
                Full,
                Usurped,
                Slow,
                WrittenSlowly,
            ],
            Kind::Journal => &[CrashBefore, CrashAfter, UnreachableUnwritten, NotWritten, Full],
        }
    }

    /// The faults of the double sweep. A crash before a call is a crash after the one before it, a restart after the
    /// effect differs from one before it only in what the next look finds, and so on: what is left out is in the single sweep.
    pub(crate) fn faults_of_a_pair(self) -> &'static [Fault] {
        match self {
            Kind::Read => &[Transient],
            Kind::Look => &[Transient, Odd],
            Kind::Change => &[CrashAfter, CrashLate, Transient, RefusedLate, UncertainDone, UncertainLate, Slow, Restarted],
            Kind::ChangeInParts => {
                &[CrashAfter, CrashHalf, CrashLate, Transient, RefusedLate, UncertainHalf, UncertainLate, Slow, Restarted]
            }
            Kind::Touch => &[CrashAfter, Transient, RefusedLate, UncertainDone, Slow],
            Kind::TouchInParts => &[CrashAfter, CrashHalf, Transient, RefusedLate, UncertainHalf, Slow],
            Kind::Append => &[CrashAfter, UnreachableUnwritten, Full, Usurped],
            Kind::Journal => &[CrashBefore, Full],
        }
    }
}

/// Whether a call does all of what it does, or only its first part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    First,
}

/// A statement whose client is gone, and that has not taken effect yet.
pub(crate) struct Late {
    pub(crate) on: Side,
    pub(crate) by: usize,
    /// Changes on that server, after which it lands: of other processes, where its own is dead.
    after: u32,
    effect: Box<dyn FnOnce(&mut World) + Send>,
}

impl fmt::Debug for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Late").field("on", &self.on).field("by", &self.by).finish_non_exhaustive()
    }
}

/// One call of one process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) process: usize,
    pub(crate) name: &'static str,
    pub(crate) on: Option<Side>,
    pub(crate) kind: Kind,
}

impl Call {
    pub(crate) fn error(&self, failure: Failure) -> PortError {
        let on = self.on.map_or_else(String::new, |side| format!(" on {side}"));
        PortError::new(failure, format!("{}{on}", self.name))
    }
}

/// A killed process never comes back from its call.
pub(crate) async fn answer<T>(answer: Option<T>) -> T {
    match answer {
        Some(answer) => answer,
        None => pending().await,
    }
}

impl Shared {
    pub(crate) async fn read<T>(&self, call: Call, look: impl FnOnce(&World) -> Result<T, PortError>) -> Result<T, PortError> {
        self.look(call, look, None).await
    }

    /// `odd`: what an odd answer would be.
    pub(crate) async fn look<T>(
        &self,
        call: Call,
        look: impl FnOnce(&World) -> Result<T, PortError>,
        odd: Option<T>,
    ) -> Result<T, PortError> {
        self.lasts().await;
        let seen = self.lock().read(call, look, odd);
        answer(seen).await
    }

    pub(crate) async fn change<T>(
        &self,
        call: Call,
        effect: impl FnOnce(&mut World, Part) -> Result<T, PortError> + Send + 'static,
    ) -> Result<T, PortError> {
        let effect = self.change_lasts(call, effect).await;
        let done = self.lock().change(call, effect);
        answer(done).await
    }
}

impl World {
    /// `None`: the process is dead. Otherwise the fault that strikes.
    pub(crate) fn begin(&mut self, call: Call) -> Option<Option<Fault>> {
        self.pass(crate::world::MS);
        if self.violation.is_some() || !self.processes[call.process].alive {
            return None;
        }
        if call.kind.changes() && call.name != "ensure_sole_coordinator" {
            self.check_intent(call);
        }
        let is_read = matches!(call.kind, Kind::Read | Kind::Look);
        let again = is_read && self.last_read == Some((call.name, call.on));
        self.last_read = is_read.then_some((call.name, call.on));
        let fault = if again {
            None
        } else {
            let number = self.points.len();
            self.points.push(call.kind);
            if self.green_dies_at == Some(number) {
                self.tell(|| "green dies".to_owned());
                self.restart(Side::Green);
                self.node(Side::Green).up = false;
                self.node(Side::Green).back_at = None;
            }
            self.comes_to_pass(number);
            if self.green_demoted_at == Some(number) {
                self.demoted_by_others();
            }
            if self.promoted_by_others_at == Some(number) {
                self.promoted_by_others();
            }
            let planned = self.faults.iter().find(|(at, _)| *at == number).map(|(_, fault)| *fault);
            planned.or_else(|| self.by_chance(call.kind))
        };
        let number = self.points.len() - usize::from(!again);
        self.tell(|| {
            let on = call.on.map_or_else(String::new, |side| format!("{side}: "));
            let number = if again { "    ".to_owned() } else { format!("{number:4}") };
            format!("{number} #{} {on}{}", call.process, call.name)
        });
        if let Some(fault) = fault {
            self.fired += 1;
            self.slow += u32::from(matches!(fault, Slow | WrittenSlowly));
            self.processes[call.process].struck = true;
            self.tell(|| format!("     FAULT {fault:?}"));
        }
        self.check_endless(call);
        if self.violation.is_some() { None } else { Some(fault) }
    }

    /// What others do at this call.
    fn comes_to_pass(&mut self, number: usize) {
        if self.guard_dies_at == Some(number)
            && let Some(guard) = &mut self.guard
        {
            guard.died_at = Some(self.now);
            self.tell(|| "the guard is killed".to_owned());
        }
        if self.interrupted_at == Some(number) {
            self.interrupted.store(true, Ordering::SeqCst);
            self.tell(|| "the coordinator is asked to end".to_owned());
        }
    }

    fn by_chance(&mut self, kind: Kind) -> Option<Fault> {
        let chaos = self.chaos.as_mut().filter(|chaos| chaos.faults_left > 0)?;
        if chaos.dice.roll(chaos.one_in) > 0 {
            return None;
        }
        chaos.faults_left -= 1;
        Some(kind.faults()[chaos.dice.roll(kind.faults().len())])
    }

    fn read<T>(
        &mut self,
        call: Call,
        look: impl FnOnce(&World) -> Result<T, PortError>,
        odd: Option<T>,
    ) -> Option<Result<T, PortError>> {
        let fault = self.begin(call)?;
        if self.broken == Some(call.name) {
            return Some(Err(call.error(Failure::Transient)));
        }
        match (fault, odd) {
            (Some(Odd), Some(odd)) => return Some(Ok(odd)),
            (Some(Transient), _) => return Some(Err(call.error(Failure::Transient))),
            (Some(Restarted), _) => {
                if let Some(side) = call.on {
                    self.restart(side);
                }
                return Some(Err(call.error(Failure::Transient)));
            }
            (Some(Outage), _) => {
                self.go_down(call.on);
                return Some(Err(call.error(Failure::Transient)));
            }
            (Some(Slow), _) => {
                self.pass(6 * SECOND);
                if !self.processes[call.process].alive {
                    return None;
                }
            }
            _ => {}
        }
        Some(look(self))
    }

    fn change<T>(
        &mut self,
        call: Call,
        effect: impl FnOnce(&mut World, Part) -> Result<T, PortError> + Send + 'static,
    ) -> Option<Result<T, PortError>> {
        let fault = self.begin(call)?;
        if call.on.is_some_and(|side| self.refuses == Some((side, call.name))) {
            return Some(Err(call.error(Failure::Refused)));
        }
        let Some(fault) = fault else {
            let result = self.take_effect(call, effect, Part::Whole);
            return Some(result);
        };
        match fault {
            Transient => Some(Err(call.error(Failure::Transient))),
            Refused => Some(Err(call.error(Failure::Refused))),
            Outage => {
                self.go_down(call.on);
                Some(Err(call.error(Failure::Uncertain)))
            }
            UncertainUndone => Some(Err(call.error(Failure::Uncertain))),
            RefusedLate => {
                let _ = self.take_effect(call, effect, Part::Whole);
                Some(Err(call.error(Failure::Refused)))
            }
            UncertainDone | UncertainHalf => {
                let part = if fault == UncertainHalf { Part::First } else { Part::Whole };
                let _ = self.take_effect(call, effect, part);
                Some(Err(call.error(Failure::Uncertain)))
            }
            Restarted | RestartedDone => {
                if fault == RestartedDone {
                    let _ = self.take_effect(call, effect, Part::Whole);
                }
                if let Some(side) = call.on {
                    self.restart(side);
                }
                Some(Err(call.error(Failure::Uncertain)))
            }
            CrashAfter | CrashHalf => {
                let part = if fault == CrashHalf { Part::First } else { Part::Whole };
                let _ = self.take_effect(call, effect, part);
                self.end_process(call.process);
                None
            }
            UncertainLate => {
                self.leave_under_way(call, effect, 1);
                Some(Err(call.error(Failure::Uncertain)))
            }
            CrashLate | CrashVeryLate => {
                self.end_process(call.process);
                self.leave_under_way(call, effect, if fault == CrashLate { 1 } else { 3 });
                None
            }
            Slow => {
                self.pass(6 * SECOND);
                if !self.processes[call.process].alive {
                    self.leave_under_way(call, effect, 1);
                    return None;
                }
                Some(self.take_effect(call, effect, Part::Whole))
            }
            CrashBefore | Odd | UnreachableWritten | UnreachableUnwritten | NotWritten | Full | Usurped | WrittenSlowly => {
                self.end_process(call.process);
                None
            }
        }
    }

    fn take_effect<T>(
        &mut self,
        call: Call,
        effect: impl FnOnce(&mut World, Part) -> Result<T, PortError>,
        part: Part,
    ) -> Result<T, PortError> {
        let result = effect(self, part);
        if let Err(error) = &result {
            let text = error.chain();
            self.tell(|| format!("      -> {text}"));
        }
        self.check_effect();
        if let Some(side) = call.on {
            self.land(side, call.process);
        }
        result
    }

    pub(crate) fn leave_under_way<T>(
        &mut self,
        call: Call,
        effect: impl FnOnce(&mut World, Part) -> Result<T, PortError> + Send + 'static,
        after: u32,
    ) {
        let Some(on) = call.on else { return };
        let name = call.name;
        let effect = move |world: &mut World| {
            world.tell(|| format!("     LANDS {name} on {on}, of #{}", call.process));
            let _ = effect(world, Part::Whole);
        };
        self.late.push(Late { on, by: call.process, after, effect: Box::new(effect) });
    }

    /// Another process has changed this server: what a dead one had under way may land.
    fn land(&mut self, on: Side, by: usize) {
        if self.late.is_empty() {
            return;
        }
        for mut late in std::mem::take(&mut self.late) {
            late.after -= u32::from(late.on == on && (late.by != by || self.processes[by].alive));
            if late.after > 0 {
                self.late.push(late);
                continue;
            }
            self.landing = true;
            (late.effect)(self);
            self.landing = false;
            self.check_effect();
        }
    }
}
