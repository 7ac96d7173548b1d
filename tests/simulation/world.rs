//! The simulated world: two servers with their logs, the flows between them, the applications, and time.
//!
//! Time passes only here: a millisecond with every call, more in a sleep or a slow call. Each time the applications write
//! wherever they can, and changes flow wherever they can.

use crate::{
    fault::{Fault, Kind, Late},
    lasting::{Lasting, Renewals},
    plan::{self, PlanKind},
    script::{Person, Script, Trouble},
    seeds::Chaos,
};
use greenlight::{
    journal::MemoryJournal,
    plan::{Plan, Strategy},
    provider::StandbyState,
    run::Run,
    word::{Side, Timestamp},
};
use jiff::SignedDuration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool};

pub(crate) const MS: u64 = 1_000;
pub(crate) const SECOND: u64 = 1_000 * MS;
/// How long a transaction of the application without a route takes.
const TRANSACTION: u64 = 3 * MS;
/// How long one takes that is begun on green at its promotion, whatever the read-only default says.
const DISHONEST_TRANSACTION: u64 = 10 * MS;
/// How long a server stays down.
const OUTAGE: u64 = 30 * SECOND;

/// A direction of the logical flow. As an index: of publications and slots on the publisher, of subscriptions on the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Forward,
    Reverse,
}

impl Flow {
    pub(crate) fn publisher(self) -> Side {
        if self == Flow::Forward { Side::Blue } else { Side::Green }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// `whole`: written while the publication names all columns.
    Row {
        id: u32,
        whole: bool,
    },
    Marker(i64),
    Other,
}

/// One entry of a server's log. Its place is its LSN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) at: u64,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Subscription {
    pub(crate) enabled: bool,
    pub(crate) origin: usize,
    /// A worker is connected. It stays so when the publisher stops taking connections, and cannot come back then.
    pub(crate) connected: bool,
    /// The next row cannot be applied, ever.
    pub(crate) stuck: Option<&'static str>,
}

/// Which rows of the ledger a server has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    bits: Vec<u64>,
    pub(crate) count: u32,
}

impl Rows {
    /// False when it was there already.
    pub(crate) fn insert(&mut self, id: u32) -> bool {
        let (word, bit) = (id as usize / 64, 1 << (id % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        let is_new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        self.count += u32::from(is_new);
        is_new
    }
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a server has that many switches")]
pub(crate) struct Node {
    pub(crate) side: Side,
    pub(crate) up: bool,
    /// When it is up again.
    pub(crate) back_at: Option<u64>,
    pub(crate) in_recovery: bool,
    pub(crate) timeline: u32,
    /// How far a standby has replayed blue's log; after the promotion, where it left it.
    pub(crate) replayed: usize,
    pub(crate) claimed: bool,
    pub(crate) allow_connections: bool,
    pub(crate) fence_installed: bool,
    pub(crate) fence_closed: bool,
    /// Its function is the one that refuses where the mark is.
    pub(crate) fence_born: bool,
    /// How much of the log comes before the fence was there: a copy that is behind has none.
    pub(crate) fenced_at: usize,
    /// The run's mark is in this server's configuration.
    pub(crate) marked: bool,
    pub(crate) read_only_default: bool,
    /// Processes that keep a session inside the run's database.
    pub(crate) sessions: Vec<usize>,
    /// When an application's open transaction commits.
    pub(crate) open_transaction: Option<u64>,
    pub(crate) log: Vec<Entry>,
    pub(crate) rows: Rows,
    /// Whether narrowed.
    pub(crate) publications: [Option<bool>; 2],
    /// Each one's place in the log.
    pub(crate) slots: [Option<usize>; 2],
    /// Where each was made: where a crash puts it back to, when nothing was saved since.
    pub(crate) slots_at_first: [usize; 2],
    pub(crate) physical_slot: bool,
    pub(crate) subscriptions: [Option<Subscription>; 2],
    pub(crate) inherited_runs: bool,
    pub(crate) marker: Option<i64>,
    pub(crate) sequence: i64,
    /// A bit for each migration.
    pub(crate) migrated: u8,
    /// The migrations' triggers fire for rows from blue.
    pub(crate) fires: bool,
    /// The same of one in batches that is done in part.
    pub(crate) half: u8,
    pub(crate) relaxed: bool,
    pub(crate) has_nulls: bool,
    /// Its fences do not keep everybody out.
    pub(crate) leaks: bool,
    /// Does not know the role by which the applications come.
    pub(crate) locks_out: bool,
    /// A trigger of its fence is off, on a table that nobody writes to.
    pub(crate) fence_damaged: bool,
    /// Somebody has changed its schema.
    pub(crate) drifted: bool,
    pub(crate) has_prepared: bool,
    pub(crate) has_stubborn_sequences: bool,
    /// We may not read where its sequences stand.
    pub(crate) hides_sequences: bool,
    /// It is of another cluster than blue and green.
    pub(crate) is_stranger: bool,
    /// The scratch database of a trial is there.
    pub(crate) has_scratch: bool,
    /// Of a restored server: no application knows of it before the writer moved there.
    pub(crate) is_unknown: bool,
    /// The first restore point, by how much of the log it comes after.
    pub(crate) restore_point: Option<usize>,
}

impl Node {
    fn new(side: Side) -> Node {
        Node {
            side,
            up: true,
            back_at: None,
            in_recovery: false,
            timeline: 1,
            replayed: 0,
            claimed: false,
            allow_connections: true,
            fence_installed: false,
            fence_closed: false,
            fence_born: false,
            fenced_at: 0,
            marked: false,
            read_only_default: false,
            sessions: Vec::new(),
            open_transaction: None,
            log: Vec::new(),
            rows: Rows::default(),
            publications: [None; 2],
            slots: [None; 2],
            slots_at_first: [0; 2],
            physical_slot: false,
            subscriptions: [None; 2],
            inherited_runs: false,
            marker: None,
            sequence: 0,
            migrated: 0,
            fires: false,
            half: 0,
            relaxed: false,
            has_nulls: false,
            leaks: false,
            locks_out: false,
            fence_damaged: false,
            drifted: false,
            has_prepared: false,
            has_stubborn_sequences: false,
            hides_sequences: false,
            is_stranger: false,
            has_scratch: false,
            is_unknown: false,
            restore_point: None,
        }
    }

    /// Whether an application's write is accepted.
    pub(crate) fn accepts_writes(&self) -> bool {
        let fenced = !self.allow_connections || self.triggers_refuse();
        self.up && !self.in_recovery && !self.read_only_default && !self.is_unknown && (!fenced || self.leaks)
    }

    pub(crate) fn triggers_refuse(&self) -> bool {
        self.fence_installed && (self.fence_closed || (self.fence_born && self.marked))
    }

    /// What a copy of `blue` has of its fence, with what it has replayed.
    fn take_fence(&mut self, blue: &Node) {
        self.fence_installed = blue.fence_installed && self.replayed >= blue.fenced_at;
        (self.fence_closed, self.fence_born) = (blue.fence_closed, blue.fence_born);
    }

    /// Everything that this log says.
    fn take_log(&mut self, log: &[Entry]) {
        self.log = log.to_vec();
        self.replayed = log.len();
        for entry in log {
            match entry.what {
                What::Row { id, .. } => self.sequence += i64::from(self.rows.insert(id)),
                What::Marker(value) => self.marker = Some(value),
                What::Other => {}
            }
        }
    }

    pub(crate) fn append(&mut self, at: u64, what: What) {
        self.log.push(Entry { at, what });
    }
}

#[derive(Debug)]
pub(crate) struct RouteFake {
    pub(crate) points_at: Side,
    pub(crate) paused_since: Option<u64>,
    pub(crate) settled: bool,
    /// Says that it was repointed, and was not.
    pub(crate) is_stubborn: bool,
    /// Takes no change, and says so.
    pub(crate) is_unmovable: bool,
    /// Its file holds what was rehearsed.
    pub(crate) rehearses: bool,
    /// It tries its server again at once.
    pub(crate) is_hasty: bool,
    /// A RESUME of it lasts, or lasted, until then.
    pub(crate) resume_lasts_until: Option<u64>,
}

/// The guard process, standing by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StandingGuard {
    pub(crate) deadline: u64,
    pub(crate) coordinator: usize,
    /// When it was killed.
    pub(crate) died_at: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about a process")]
pub(crate) struct Process {
    pub(crate) is_guard: bool,
    pub(crate) alive: bool,
    /// Another process has the run: this one may change nothing any more.
    pub(crate) is_superseded: bool,
    /// A write to the journal failed: this process may do nothing but give clients back.
    pub(crate) lost_journal: bool,
    /// It keeps others from writing into the journal, and has its room.
    pub(crate) holds_journal: bool,
    /// A fault struck it.
    pub(crate) struck: bool,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: u64,
    /// How far the clock of the machine that coordinates is ahead of the servers'.
    pub(crate) clock_ahead_secs: i64,
    /// How long a change takes from one log to the other side.
    pub(crate) lag: u64,
    pub(crate) nodes: [Node; 2],
    pub(crate) standby: StandbyState,
    pub(crate) routes: Vec<RouteFake>,
    pub(crate) guard: Option<StandingGuard>,
    /// Acknowledged rows; each one's number is its place in this count.
    pub(crate) acknowledged: u32,
    /// Rows that a side does not have: of blue by a person's word (`abandon --without-green`), of a restored green because they came
    /// after the point.
    pub(crate) given_up: [u32; 2],
    pub(crate) outcast_green: bool,
    pub(crate) client_errors: u32,

    pub(crate) kind: PlanKind,
    /// As it holds now.
    pub(crate) plan: Arc<Plan>,
    /// The run as its durable journal tells it.
    pub(crate) run: Run,
    pub(crate) processes: Vec<Process>,
    pub(crate) person: Person,

    pub(crate) faults: Vec<(usize, Fault)>,
    pub(crate) chaos: Option<Chaos>,
    pub(crate) fired: u32,
    /// How many calls were slow, of a process that goes on.
    pub(crate) slow: u32,
    /// Until when nothing can be written into the journal.
    pub(crate) journal_full_until: u64,
    /// How often a coordinator said that clients are paused and that the journal cannot be written.
    pub(crate) alarms: u32,
    /// The guard is killed at this call.
    pub(crate) guard_dies_at: Option<usize>,
    /// The coordinator is asked to end at this call.
    pub(crate) interrupted_at: Option<usize>,
    /// Routes that cannot be pointed at green, or not be resumed, up to this time.
    pub(crate) unmovable_until: u64,
    pub(crate) unresumable_until: u64,
    /// Every numbered call so far.
    pub(crate) points: Vec<Kind>,
    pub(crate) last_read: Option<(&'static str, Option<Side>)>,
    /// A read that fails from now on, for ever.
    pub(crate) broken: Option<&'static str>,
    /// A change that one side refuses.
    pub(crate) refuses: Option<(Side, &'static str)>,
    pub(crate) late: Vec<Late>,
    /// A dead process's statement lands: its session is still there on the server.
    pub(crate) landing: bool,
    pub(crate) violation: Option<String>,
    pub(crate) trace: Option<Vec<String>>,
    /// A process has taken the run over, and has not yet looked how far the open step came.
    pub(crate) must_observe: bool,
    pub(crate) differs: bool,
    pub(crate) trouble_at_promotion: Option<Trouble>,
    pub(crate) windows_opened: u32,
    pub(crate) was_stuck: bool,
    pub(crate) calls: usize,
    pub(crate) promoted_by_others_at: Option<usize>,
    pub(crate) green_dies_at: Option<usize>,
    pub(crate) green_demoted_at: Option<usize>,
    pub(crate) lasting: Option<Lasting>,
    pub(crate) renewals: Renewals,
    /// The journal, as another coordinator sees it who wants the run.
    pub(crate) rival: Option<MemoryJournal>,
    pub(crate) progress_stored: u32,
    pub(crate) unsure_records: u32,
    /// It is on record that nobody can write, with what a person can do.
    pub(crate) says_no_writes: bool,
    /// The present coordinator's Ctrl-C.
    pub(crate) interrupted: Arc<AtomicBool>,
}

/// The world as its ports share it.
#[derive(Clone, Debug)]
pub(crate) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(crate) fn new(world: World) -> Shared {
        Shared(Arc::new(Mutex::new(world)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RouteFake {
    fn to_blue() -> RouteFake {
        RouteFake {
            points_at: Side::Blue,
            paused_since: None,
            settled: false,
            is_stubborn: false,
            is_unmovable: false,
            rehearses: false,
            is_hasty: false,
            resume_lasts_until: None,
        }
    }
}

impl World {
    pub(crate) fn new(kind: PlanKind, script: Script, faults: &[(usize, Fault)]) -> World {
        let plan = plan::plan(kind);
        let (mut blue, mut green) = (Node::new(Side::Blue), Node::new(Side::Green));
        green.in_recovery = true;
        blue.physical_slot = kind.has_standby();
        green.up = !kind.makes_standby && !kind.restores;
        let mut acknowledged = 0;
        if kind.strategy == Strategy::Restored {
            // By hand, to before some rows that blue has.
            (green.in_recovery, green.timeline, green.is_unknown) = (false, 2, true);
            for id in 0..5 {
                blue.append(0, What::Row { id, whole: true });
                blue.rows.insert(id);
                blue.sequence += 1;
            }
            acknowledged = 5;
            green.take_log(&blue.log[..3]);
        }
        World {
            now: 0,
            lag: 4 * MS,
            nodes: [blue, green],
            standby: if kind.makes_standby || kind.restores { StandbyState::Absent } else { StandbyState::Running },
            routes: (0..kind.routes).map(|_| RouteFake::to_blue()).collect(),
            guard: None,
            acknowledged,
            given_up: [0; 2],
            outcast_green: false,
            client_errors: 0,
            run: Run::new(plan.steps.len()),
            kind,
            plan: Arc::new(plan),
            processes: Vec::new(),
            person: Person::new(script),
            faults: faults.to_vec(),
            chaos: None,
            fired: 0,
            slow: 0,
            journal_full_until: 0,
            clock_ahead_secs: 0,
            alarms: 0,
            guard_dies_at: None,
            interrupted_at: None,
            unmovable_until: 0,
            unresumable_until: 0,
            points: Vec::with_capacity(512),
            last_read: None,
            broken: None,
            refuses: None,
            late: Vec::new(),
            landing: false,
            violation: None,
            trace: None,
            must_observe: false,
            differs: false,
            trouble_at_promotion: None,
            windows_opened: 0,
            was_stuck: false,
            calls: 0,
            promoted_by_others_at: None,
            green_dies_at: None,
            green_demoted_at: None,
            lasting: None,
            renewals: Renewals::Work,
            rival: None,
            progress_stored: 0,
            unsure_records: 0,
            says_no_writes: false,
            interrupted: Arc::default(),
        }
    }

    /// By the clock of the machine that coordinates.
    pub(crate) fn timestamp(&self) -> Timestamp {
        self.true_time() + SignedDuration::from_secs(self.clock_ahead_secs)
    }

    pub(crate) fn true_time(&self) -> Timestamp {
        Timestamp::from_microsecond(1_800_000_000_000_000 + self.now.cast_signed()).unwrap()
    }

    pub(crate) fn node(&mut self, side: Side) -> &mut Node {
        &mut self.nodes[side as usize]
    }

    pub(crate) fn journal_is_full(&self) -> bool {
        self.now < self.journal_full_until
    }

    /// The first thing that was not as it must be. The run ends there.
    pub(crate) fn violated(&mut self, what: impl Into<String>) {
        self.violation.get_or_insert_with(|| what.into());
    }

    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9} ms  {}", now / MS, line()));
        }
    }

    // --- processes -----------------------------------------------------------------------------------------------------

    pub(crate) fn start_process(&mut self, is_guard: bool) -> usize {
        self.processes.push(Process {
            is_guard,
            alive: true,
            is_superseded: false,
            lost_journal: false,
            holds_journal: false,
            struck: false,
        });
        self.last_read = None;
        self.processes.len() - 1
    }

    /// It ends, by itself or by a kill: its sessions go with it.
    pub(crate) fn end_process(&mut self, process: usize) {
        self.processes[process].alive = false;
        for node in &mut self.nodes {
            node.sessions.retain(|kept| *kept != process);
        }
    }

    // --- time ----------------------------------------------------------------------------------------------------------

    /// Lets time pass, with the guard's deadline in it.
    pub(crate) fn pass(&mut self, mut left: u64) {
        while left > 0 && self.violation.is_none() {
            let deadline =
                self.guard.filter(|guard| guard.died_at.is_none()).map_or(u64::MAX, |guard| guard.deadline.max(self.now + 1));
            let part = left.min(SECOND).min(deadline - self.now);
            self.now += part;
            left -= part;
            self.tick();
            if let Some(guard) = self.guard.filter(|guard| guard.deadline <= self.now && guard.died_at.is_none())
                && self.processes[guard.coordinator].alive
            {
                self.tell(|| "the guard's deadline has passed: it ends the coordinator".to_owned());
                self.end_process(guard.coordinator);
                // Whoever let the time pass is gone, and the guard acts now.
                return;
            }
        }
    }

    fn tick(&mut self) {
        let now = self.now;
        for node in self.nodes.iter_mut().filter(|node| node.back_at.is_some_and(|at| at <= now)) {
            (node.up, node.back_at) = (true, None);
        }
        self.applications_write();
        self.replay();
        self.flow(Flow::Forward);
        self.flow(Flow::Reverse);
        self.check_effect();
        self.check_pauses();
    }

    fn applications_write(&mut self) {
        for at in 0..self.routes.len() {
            let route = &self.routes[at];
            if route.paused_since.is_none() {
                let side = route.points_at;
                if self.nodes[side as usize].accepts_writes() {
                    self.write(side);
                } else {
                    self.client_errors += 1;
                }
            }
        }
        // One application uses no route, tries both sides, and takes its time to commit.
        for side in [Side::Blue, Side::Green] {
            self.transact(side);
        }
    }

    fn transact(&mut self, side: Side) {
        let now = self.now;
        let node = self.node(side);
        match node.open_transaction {
            Some(commits_at) if commits_at <= now => {
                node.open_transaction = None;
                if self.nodes[side.other() as usize].accepts_writes() && !self.outcast_green {
                    self.violated(format!("a transaction commits on {side} while the other side is open for writes"));
                }
                self.write(side);
            }
            None if node.accepts_writes() => node.open_transaction = Some(now + TRANSACTION),
            Some(_) | None => {}
        }
    }

    /// An application's write, acknowledged.
    fn write(&mut self, side: Side) {
        self.check_before_write(side);
        let (now, id) = (self.now, self.acknowledged);
        let node = self.node(side);
        let whole = side == Side::Blue && node.publications[Flow::Forward as usize] != Some(true);
        node.append(now, What::Row { id, whole });
        node.rows.insert(id);
        node.sequence += 1;
        self.acknowledged += 1;
    }

    fn replay(&mut self) {
        let (now, lag) = (self.now, self.lag);
        let [blue, green] = &mut self.nodes;
        if !(green.in_recovery && green.timeline == 1 && green.up && blue.up) {
            return;
        }
        if green.is_unknown {
            return;
        }
        while blue.log.get(green.replayed).is_some_and(|entry| entry.at + lag <= now) {
            green.replayed += 1;
        }
        green.take_fence(blue);
    }

    /// Somebody else promotes green, and is careful with it.
    /// It keeps its own timeline, and follows nobody.
    pub(crate) fn demoted_by_others(&mut self) {
        if self.nodes[Side::Green as usize].timeline > 1 {
            self.tell(|| "somebody makes green a standby again".to_owned());
            self.restart(Side::Green);
            self.node(Side::Green).in_recovery = true;
        }
    }

    pub(crate) fn promoted_by_others(&mut self) {
        if self.nodes[Side::Green as usize].in_recovery {
            self.tell(|| "somebody promotes green".to_owned());
            self.node(Side::Green).read_only_default = true;
            self.promote_green();
        }
    }

    /// Green becomes a server of its own, with everything of blue's that it has replayed.
    pub(crate) fn promote_green(&mut self) {
        let [blue, green] = &mut self.nodes;
        if !green.in_recovery {
            return;
        }
        green.in_recovery = false;
        green.timeline = 2;
        green.take_log(&blue.log[..green.replayed]);
        green.claimed = blue.claimed;
        green.publications = blue.publications;
        green.take_fence(blue);
        green.allow_connections = blue.allow_connections;
        green.sequence = blue.sequence;
        green.inherited_runs = true;
        if self.trouble_at_promotion == Some(Trouble::Dishonest) && !green.triggers_refuse() {
            green.open_transaction = Some(self.now + DISHONEST_TRANSACTION);
        }
        if self.trouble_at_promotion == Some(Trouble::Leak(Side::Green)) {
            (green.leaks, self.outcast_green) = (true, true);
        }
    }

    /// Blue's backup is restored to its restore point, and stands there.
    pub(crate) fn restore_green(&mut self) {
        let point = self.nodes[Side::Blue as usize].restore_point.unwrap();
        let blue = &self.nodes[Side::Blue as usize];
        let mut green = Node { in_recovery: true, is_unknown: true, ..Node::new(Side::Green) };
        green.take_log(&blue.log[..point]);
        green.take_fence(blue);
        self.nodes[Side::Green as usize] = green;
        self.standby = StandbyState::Running;
    }

    /// A new standby, that has replayed nothing yet.
    pub(crate) fn make_green(&mut self) {
        *self.node(Side::Green) = Node { in_recovery: true, ..Node::new(Side::Green) };
    }

    fn flow(&mut self, flow: Flow) {
        let (now, lag, f) = (self.now, self.lag, flow as usize);
        let [blue, green] = &mut self.nodes;
        let (from, to) = if flow == Flow::Forward { (blue, green) } else { (green, blue) };
        let Some(subscription) = &mut to.subscriptions[f] else { return };
        let possible = subscription.enabled && from.up && to.up && !from.in_recovery && !to.in_recovery;
        let (Some(slot), Some(_), true, None) = (&mut from.slots[f], from.publications[f], possible, subscription.stuck) else {
            subscription.connected = false;
            return;
        };
        subscription.connected |= from.allow_connections && to.allow_connections;
        if !subscription.connected {
            return;
        }
        let mut place = (*slot).max(subscription.origin);
        let (mut violation, mut passes_by) = (None, false);
        while let Some(entry) = from.log.get(place).filter(|entry| entry.at + lag <= now) {
            if flow == Flow::Forward && to.migrated != 0 && !to.fires && matches!(entry.what, What::Row { .. }) {
                passes_by = true;
            }
            match entry.what {
                What::Row { whole, .. } if flow == Flow::Forward && whole && to.migrated != 0 => {
                    subscription.stuck = Some("a row has a column that green has no more");
                }
                What::Row { whole: false, .. } if flow == Flow::Forward && !to.relaxed && to.migrated == 0 => {
                    subscription.stuck = Some("a row lacks a column that green needs");
                }
                What::Row { .. } if flow == Flow::Reverse && !to.relaxed => {
                    subscription.stuck = Some("a row lacks a column that blue needs");
                }
                What::Row { id, .. } if !to.rows.insert(id) => violation = Some(id),
                What::Row { .. } => to.has_nulls |= flow == Flow::Reverse,
                What::Marker(value) => to.marker = Some(value),
                What::Other => {}
            }
            if subscription.stuck.is_some() || violation.is_some() {
                break;
            }
            // An applied entry is an entry of the subscriber's own log.
            to.log.push(Entry { at: now, what: entry.what });
            place += 1;
        }
        subscription.origin = subscription.origin.max(place);
        *slot = (*slot).max(place);
        if passes_by && !self.plan.sync_triggers.is_empty() {
            self.violated("a row from blue passes by a trigger of the migrations");
        }
        if let Some(id) = violation {
            self.violated(format!("row {id} was applied twice, by the {flow:?} flow"));
        }
    }

    /// Down for a while; what is no server stays up.
    pub(crate) fn go_down(&mut self, side: Option<Side>) {
        if let Some(side) = side {
            self.restart(side);
            self.node(side).up = false;
            let back_at = self.now + OUTAGE;
            self.node(side).back_at = Some(back_at);
        }
    }

    /// The server is restarted: every session of it is gone.
    pub(crate) fn restart(&mut self, side: Side) {
        self.node(side).sessions.clear();
        let node = self.node(side);
        node.open_transaction = None;
        for (slot, at_first) in node.slots.iter_mut().zip(node.slots_at_first) {
            *slot = slot.map(|_| at_first);
        }
        for subscription in self.nodes.iter_mut().flat_map(|node| node.subscriptions.iter_mut().flatten()) {
            subscription.connected = false;
        }
        self.late.retain(|late| late.on != side);
    }
}
