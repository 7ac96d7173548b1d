//! Every fault at every call.

use crate::harness::{Report, Setup};
use greenlight::run::Outcome;

#[derive(Debug, Default)]
struct Tally {
    runs: u32,
    completed: u32,
    rolled_back: u32,
    held: u32,
    were_stuck: u32,
}

impl Tally {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.were_stuck += u32::from(report.world.was_stuck);
        match report.outcome {
            Some(Outcome::Completed) => self.completed += 1,
            Some(Outcome::RolledBack) => self.rolled_back += 1,
            None => self.held += 1,
        }
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
            tally.add(&setup.with(&[(at, *fault)]).run());
        }
    }
    println!("{} calls: {tally:?}", points.len());
}
