//! No clock that is wrong opens the hours of a gate or ends a soak: what passes by itself at a time passes only while this
//! machine's clock and those of both servers say the same.

use super::{Ports, StepContext};
use crate::postgres::Server;
use crate::run::{StepNo, StepState};
use crate::word::Side;
use jiff::SignedDuration;

/// How far two clocks may be apart: far more than machines without a common time server are within a day, and far less than hours and
/// soaks last.
const APART_MAX: SignedDuration = SignedDuration::from_mins(1);

/// `Some`: why a step that begins in certain hours does not begin now.
pub(crate) async fn keep_shut(cx: &StepContext<'_>, step: StepNo) -> Option<String> {
    let begins = matches!(cx.run().steps[step.0], StepState::Running { .. }) && cx.run().open_window().is_none();
    if !begins || cx.plan.steps[step.0].gate.hours.is_none() {
        return None;
    }
    apart(cx.ports).await.map(|why| format!("clocks that agree, since the step begins in certain hours: {why}"))
}

/// `None`: the clocks agree. Otherwise which of them do not, or which could not be read.
pub(super) async fn apart(ports: &Ports) -> Option<String> {
    let jumped = ports.clock.jumped();
    if jumped.abs() > APART_MAX {
        return Some(format!(
            "this machine's was set {} while this process ran, so start it again",
            in_words(jumped, "forwards", "back")
        ));
    }
    let mut wrong = Vec::new();
    for (side, server) in [(Side::Blue, &ports.blue), (Side::Green, &ports.green)] {
        wrong.extend(apart_from(ports, side, server.as_ref()).await);
    }
    (!wrong.is_empty()).then(|| wrong.join("; "))
}

async fn apart_from(ports: &Ports, side: Side, server: &dyn Server) -> Option<String> {
    let before = ports.clock.now();
    let theirs = match server.clock().await {
        Ok(theirs) => theirs,
        Err(error) => return Some(format!("{side}'s could not be read: {}", error.chain())),
    };
    let after = ports.clock.now();
    let ahead = theirs.duration_since(after).max(theirs.duration_since(before).min(SignedDuration::ZERO));
    (ahead.abs() > APART_MAX).then(|| format!("{side}'s is {} this machine's", in_words(ahead, "ahead of", "behind")))
}

/// In whole minutes, since what is said again and again must not change while nothing does.
fn in_words(apart: SignedDuration, forwards: &str, back: &str) -> String {
    let minutes = (apart.abs().as_secs() + 30) / 60;
    let way = if apart.is_negative() { back } else { forwards };
    format!("{} h {} min {way}", minutes / 60, minutes % 60)
}
