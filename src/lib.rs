//! Greenlight changes a PostgreSQL database without an incident: it migrates a replica, proves it, moves the applications
//! over in a pause of milliseconds, and keeps the old primary current as the way back. This page is the map of the code.
//!
//! # Words
//!
//! The same in playbooks, code, journal and messages.
//!
//! - **blue** serves when the run begins, **green** will serve; fixed for the whole run. *Primary* and *standby* are states of
//!   a server, never its role.
//! - A **playbook** is what a person wrote, a **survey** what was seen of the world; the **plan** is both compiled to a fixed
//!   line of **steps**, frozen and stored with the run. A **run** is one execution of a plan; its truth is its **journal**.
//! - The **strategy** is how the change is made: `sync` migrates green while it follows, `freeze` while blue stands still,
//!   `in-place` migrates blue itself; `restored` migrates nothing, and moves to what a backup of blue was restored to.
//! - A step has `observe`, `advance` and `revert`. What it learns for later steps is a **fact**. A **gate** is where the run
//!   waits for hours or a person.
//! - The **window** is the short pause in which the writer moves; in it lies the **commit point**, the one record before
//!   which the run goes back and after which it goes forward.
//! - A **fence** keeps applications from writing to a server. A **route** is what they connect to. A **marker** is a row
//!   written on one side and awaited on the other: everything before it has arrived.
//! - During the **soak** blue follows green, and going back loses nothing; **finish** ends that.
//!
//! # Invariants
//!
//! 1. At no moment can applications write to both sides.
//! 2. A write that a client saw committed exists on the serving side after any cutover, rollback, crash or abort. But for a
//!    server that was restored to an earlier point, by the word of the playbook: what came after it stays on blue.
//! 3. Whatever fails (coordinator, guard, journal, disk, route, server), applications are paused for no longer than the
//!    window's limit and two seconds. While they are, `status` and every error say so.
//! 4. Every change to the world is preceded by a durable intent and followed by a durable outcome; what was in flight at a
//!    crash is observed before it is repeated.
//! 5. A run ends completed, rolled back whole, or held for a person with the reason on record. Never anything else.
//! 6. Unknown is never good: unknown lag, role or route keeps the gate shut.
//! 7. What Greenlight made, it can list and remove: names derive from the run.
//! 8. Nothing that a role can write which is no superuser (function, operator, cast, trigger, view, default, type) runs with
//!    Greenlight's rights, on servers or on machines, but what the plan names and the playbook accepts.
//!
//! The first seven are looked at after every effect of every run of the simulation, by `tests/simulation/invariants.rs`:
//! `check_effect` (1), `check_before_write` (2), `check_pauses` (3), `check_intent` (4), `check_rest` and `check_end` (5 and
//! 7); for 6 there is a case of its own, `unknown_keeps_the_window_shut`. 8 is tried by an attacker on real
//! servers, `tests/live/hostile.rs`. The README names the tests on real servers.
//!
//! # Layers
//!
//! Who may use whom is the table `LAYERS` in `tests/tidy.rs`, and a test.
//!
//! ```text
//!  cli ............ what can be typed; the only place that prints
//!  wire ........... playbook -> trait objects; the only place that names both sides
//!  engine ......... the loop, the lease, the guard; the only place that awaits a step
//!  step ........... what each step does, through ports
//!  postgres, journal, migrate, provider, route, snapshot, validate: ports, each with what implements it
//!  run, plan, playbook, schema ... what is decided, as data and functions of data; no I/O
//!  word ........... names without behaviour
//! ```
//!
//! # Modules, in the order in which to read them
//!
//! Begin with `run::decide` and `engine::Engine::drive`: what is to be done next, and the loop that does it. Then one simple
//! step, `step/publish_blue.rs`, and the one that matters, `step/window`.

pub mod word;

pub mod playbook;
pub mod schema;

pub mod plan;
pub mod run;

pub mod engine;
pub mod step;

pub mod journal;
pub mod migrate;
pub mod postgres;
pub mod provider;
pub mod route;
pub mod snapshot;
pub mod validate;

pub mod cli;
pub mod wire;

pub mod lab;

pub mod failpoint;
pub mod process;
