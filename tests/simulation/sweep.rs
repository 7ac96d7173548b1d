//! Every fault at every call.

use crate::harness::{Report, Setup};
use greenlight::run::Outcome;

#[derive(Debug, Default)]
pub(crate) struct Tally {
    runs: u32,
    completed: u32,
    rolled_back: u32,
    held: u32,
    were_stuck: u32,
    /// Each broken invariant, with the first run that broke it and how many did.
    violations: Vec<(String, Setup, u32)>,
}

impl Tally {
    /// Runs it and counts what came of it.
    pub(crate) fn run(&mut self, setup: Setup) -> Report {
        let report = setup.simulate(false);
        self.add(&report);
        if let Some(text) = &report.world.violation {
            match self.violations.iter_mut().find(|(known, ..)| known == text) {
                Some((.., times)) => *times += 1,
                None => self.violations.push((text.clone(), setup, 1)),
            }
        }
        report
    }

    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.were_stuck += u32::from(report.world.was_stuck);
        match report.outcome {
            Some(Outcome::Completed) => self.completed += 1,
            Some(Outcome::RolledBack) => self.rolled_back += 1,
            None => self.held += 1,
        }
    }

    /// With faults that end and a person who tries again, no run is held for good.
    pub(crate) fn none_held(&self) {
        assert_eq!(self.held, 0);
    }

    /// Prints the figures, and fails with the first run of each kind of violation.
    pub(crate) fn conclude(&self, what: &str, calls: usize) {
        let Tally { runs, completed, rolled_back, held, were_stuck, violations } = self;
        println!(
            "{what}: {calls} calls, {runs} runs: {completed} completed, {rolled_back} rolled back, {held} held; {were_stuck} waited for a person"
        );
        if let Some((_, setup, _)) = violations.first() {
            println!("{}", setup.trace());
        }
        let found: Vec<String> = violations
            .iter()
            .map(|(text, setup, times)| format!("{text} ({times} runs, first {:?}, seed {})", setup.faults, setup.seed))
            .collect();
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

#[test]
fn a_run_without_faults_goes_forth_back_and_forth_again_and_completes() {
    let report = Setup::default().run();
    assert_eq!(report.outcome, Some(Outcome::Completed), "{}", Setup::default().trace());
    assert_eq!(report.world.windows_opened, 3);
    println!("{} calls, {} rows", report.points.len(), report.world.acknowledged);
}

#[test]
fn every_single_fault_ends_whole() {
    let setup = Setup::default();
    let points = setup.run().points;
    let mut tally = Tally::default();
    for (at, kind) in points.iter().enumerate() {
        for fault in kind.faults() {
            tally.run(setup.with(&[(at, *fault)]));
        }
    }
    tally.conclude("every single fault", points.len());
    tally.none_held();
}

/// The run without a fault, then with every single one.
pub(crate) fn sweep(what: &str, setup: &Setup, outcome: Option<Outcome>) -> Report {
    let plain = setup.run();
    assert_eq!(plain.outcome, outcome, "{what}\n{}", setup.trace());
    let mut tally = Tally::default();
    for (at, kind) in plain.points.iter().enumerate() {
        for fault in kind.faults() {
            tally.run(setup.with(&[(at, *fault)]));
        }
    }
    tally.conclude(what, plain.points.len());
    plain
}

/// Every pair of faults of which the first strikes a call of this shard.
pub(crate) fn sweep_pairs(setup: &Setup, shard: usize, shards: usize) -> Tally {
    let points = setup.run().points;
    let mut tally = Tally::default();
    for (at, kind) in points.iter().enumerate().filter(|(at, _)| at % shards == shard) {
        for fault in kind.faults_of_a_pair() {
            let first = tally.run(setup.with(&[(at, *fault)]));
            for (later, kind) in first.points.iter().enumerate().skip(at + 1) {
                for second in kind.faults_of_a_pair() {
                    tally.run(setup.with(&[(at, *fault), (later, *second)]));
                }
            }
        }
    }
    tally.conclude(&format!("pairs of faults, part {shard} of {shards}"), points.len());
    tally
}

const SHARDS: usize = 8;

macro_rules! pairs {
    ($($name:ident: $shard:expr),*) => {
        $(#[test]
        fn $name() {
            sweep_pairs(&Setup::default(), $shard, SHARDS).none_held();
        })*
    };
}

pairs! {
    every_pair_of_faults_ends_whole_0: 0,
    every_pair_of_faults_ends_whole_1: 1,
    every_pair_of_faults_ends_whole_2: 2,
    every_pair_of_faults_ends_whole_3: 3,
    every_pair_of_faults_ends_whole_4: 4,
    every_pair_of_faults_ends_whole_5: 5,
    every_pair_of_faults_ends_whole_6: 6,
    every_pair_of_faults_ends_whole_7: 7
}
