//! Long runs with many faults, drawn at random. A failure names its seed.

use crate::{
    harness::Setup,
    plan::PlanKind,
    script::{Script, Wish},
    sweep::Tally,
};
use greenlight::plan::{OnFailure, Strategy};

/// Numbers that look random and are the same for each seed (xorshift).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

/// Faults that strike any call by chance.
#[derive(Clone, Debug)]
pub(crate) struct Chaos {
    pub(crate) dice: Dice,
    /// One call in so many is struck.
    pub(crate) one_in: usize,
    pub(crate) faults_left: u32,
}

fn drawn(seed: u64) -> Setup {
    use Wish::{Finish, Rollback};
    const SOAKS: [&[Wish]; 3] = [&[Finish], &[Rollback, Finish], &[Rollback, Rollback, Rollback, Finish]];
    let mut dice = Dice::new(seed);
    let kind = PlanKind {
        routes: dice.roll(4),
        makes_standby: dice.roll(4) == 0,
        on_failure: if dice.roll(3) == 0 { OnFailure::Hold } else { OnFailure::Rollback },
        ..PlanKind::default()
    };
    let script = Script {
        soaks: SOAKS[dice.roll(3)],
        abandon_at: (dice.roll(3) == 0).then(|| 1 + u32::try_from(dice.roll(8)).unwrap()),
        retries: 100,
        patience_secs: 7_200,
        ..Script::default()
    };
    let lag_ms = Some([0, 2, 4, 20, 150][dice.roll(5)]);
    let one_in = [10, 25, 60][dice.roll(3)];
    let faults_left = 1 + u32::try_from(dice.roll(15)).unwrap();
    Setup { kind, script, lag_ms, chaos: Some(Chaos { dice, one_in, faults_left }), seed, ..Setup::default() }
}

/// The same of the strategies in which nothing flows before the writer moves.
fn drawn_of_another_strategy(seed: u64) -> Setup {
    let setup = drawn(seed);
    let mut dice = Dice::new(!seed);
    let restores = dice.roll(2) == 0;
    let strategy = [Strategy::Freeze, Strategy::InPlace, Strategy::Restored][dice.roll(3)];
    let in_place = strategy == Strategy::InPlace;
    let kind = PlanKind {
        strategy,
        makes_standby: setup.kind.makes_standby && strategy == Strategy::Freeze,
        reads_on_blue: dice.roll(2) == 0,
        restores: in_place && restores,
        on_failure: if in_place && restores { OnFailure::Restore } else { setup.kind.on_failure },
        in_batches: dice.roll(2) == 0,
        has_downs: dice.roll(2) == 0,
        fails_at: if in_place { [None, Some(0b01), Some(0b10)][dice.roll(3)] } else { None },
        ..setup.kind
    };
    Setup { kind, ..setup }
}

fn play(seeds: std::ops::Range<u64>) {
    play_each(seeds, drawn).none_held();
}

fn play_each(seeds: std::ops::Range<u64>, drawn: fn(u64) -> Setup) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds.clone() {
        tally.run(drawn(seed));
    }
    tally.conclude(&format!("seeds {seeds:?}"), 0);
    tally
}

/// Some are held: a migration that always fails, with no way back.
#[test]
fn random_runs_of_the_other_strategies_with_many_faults_end_whole() {
    play_each(20_000..30_000, drawn_of_another_strategy);
}

#[test]
fn random_runs_with_many_faults_end_whole_0() {
    play(0..10_000);
}

#[test]
fn random_runs_with_many_faults_end_whole_1() {
    play(10_000..20_000);
}
