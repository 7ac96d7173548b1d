//! Whether commits on either side could hang, be late, or be lost: synchronous standbys, prepared and long transactions.

use super::{Look, fine, handled, needs_accept, refused};
use crate::plan::figures::{count, few, milliseconds};
use crate::plan::{Finding, LongTransactions, ServerSurvey, StepName};

pub(super) fn check(look: &Look<'_>) -> Vec<Finding> {
    let mut findings = vec![green_is_not_awaited(look.blue(), look.green())];
    findings.extend(look.green().and_then(|green| green_awaits_nobody(look.blue(), green)));
    if look.blue().synchronous_commit == "off" {
        let how = "the marker arrives only after everything before it was flushed, which may lengthen the pause by a few `wal_writer_delay`";
        findings.push(handled("synchronous-commit", "`synchronous_commit` is off on blue.", StepName::Window, how));
    }
    findings.push(prepared(look.blue()));
    findings.push(long(look));
    findings
}

/// A promoted green no longer confirms anything: blue's commits would wait for it without end.
fn green_is_not_awaited(blue: &ServerSurvey, green: Option<&ServerSurvey>) -> Finding {
    let code = "synchronous-standby-names";
    let names = &blue.synchronous_standby_names;
    if names.trim().is_empty() {
        return fine(code, "Blue awaits no standby when it commits.");
    }
    let by_slot = |green: &ServerSurvey| {
        let mut standbys = blue.standbys.iter();
        standbys
            .any(|standby| green.upstream_slot.is_some() && standby.slot == green.upstream_slot && standby.sync_state != "async")
    };
    let name = green.and_then(|green| green.upstream_name.as_deref()).unwrap_or_default();
    if covers(names, name) || green.is_some_and(by_slot) {
        let seen = format!(
            "Blue's `synchronous_standby_names` (`{names}`) covers green: blue's commits would hang when green is promoted."
        );
        return refused(code, seen, "take green out of `synchronous_standby_names` on blue (no `*`), and reload it");
    }
    fine(code, format!("Blue awaits other standbys than green (`{names}`)."))
}

/// Whether `synchronous_standby_names` names a standby, in any of its forms: `a, b`, `FIRST 1 (a, b)`, `ANY 2 (*)`.
fn covers(names: &str, standby: &str) -> bool {
    let list = names.split_once('(').map_or(names, |(_, list)| list.trim_end().trim_end_matches(')'));
    list.split(',').map(|name| name.trim().trim_matches('"')).any(|name| name == "*" || name.eq_ignore_ascii_case(standby))
}

fn green_awaits_nobody(blue: &ServerSurvey, green: &ServerSurvey) -> Option<Finding> {
    let code = "green-synchronous-standby-names";
    let names = green.synchronous_standby_names.trim();
    if names.is_empty() {
        return (!blue.synchronous_standby_names.trim().is_empty()).then(|| {
            let consequence = "from the window on a commit is on one server only, until you give green standbys of its own";
            needs_accept(code, "Blue's commits are confirmed by a standby, and green's will not be.", consequence)
        });
    }
    let seen = format!("Green's `synchronous_standby_names` is `{names}`: once promoted, its commits wait for them.");
    Some(if green.standbys.is_empty() {
        refused(code, format!("{seen} No standby follows green."), "reset `synchronous_standby_names` on green, and reload it")
    } else {
        needs_accept(
            code,
            seen,
            "green's commits, and with them the window, are as slow as these standbys, and hang when they are gone",
        )
    })
}

/// The slot waits for each of them, the fence cannot end them, and green would inherit them.
fn prepared(blue: &ServerSurvey) -> Finding {
    let code = "prepared-transactions";
    if !blue.prepared_transactions.is_empty() {
        let seen = format!(
            "Blue has {}: {}.",
            count(blue.prepared_transactions.len(), "prepared transaction"),
            few(&blue.prepared_transactions)
        );
        return refused(code, seen, "`COMMIT PREPARED` or `ROLLBACK PREPARED` each of them");
    }
    if blue.prepared_transactions_max == 0 {
        return fine(code, "Prepared transactions are switched off.");
    }
    let how = "looked for again before the pause and inside the fence, where one sends the window back";
    handled(code, "There is no prepared transaction now, and there may be some later.", StepName::Window, how)
}

fn long(look: &Look<'_>) -> Finding {
    let code = "long-transactions";
    let window = &look.input.window;
    let long: Vec<String> = look
        .blue()
        .long_transactions
        .iter()
        .filter(|transaction| transaction.age_secs * 1000 >= window.transaction_age_max_ms)
        .map(|transaction| {
            let age = milliseconds(transaction.age_secs * 1000);
            format!("pid {} of `{}` ({}, {age})", transaction.pid, transaction.user, transaction.state)
        })
        .collect();
    let limit = milliseconds(window.transaction_age_max_ms);
    if long.is_empty() {
        return fine(code, format!("No transaction on blue is older than {limit}."));
    }
    let then = match window.long_transactions {
        LongTransactions::Wait => "the window waits for them to end",
        LongTransactions::Cancel => "the window cancels them just before the pause",
    };
    let seen = format!("{} on blue older than {limit}: {}.", count(long.len(), "transaction"), few(&long));
    handled(code, seen, StepName::Window, format!("making blue's slot waits for every transaction that is open then; {then}"))
}

#[cfg(test)]
mod tests {
    use super::super::example::{World, assert_answers};
    use super::covers;
    use crate::plan::{StandbySurvey, TransactionSurvey};

    #[test]
    fn every_form_of_the_list_of_synchronous_standbys_is_understood() {
        for names in ["green", "a, Green", "*", "FIRST 1 (a, \"green\")", "ANY 2 (*)", "2 (a, b, green)"] {
            assert!(covers(names, "green"), "{names}");
        }
        for names in ["a", "FIRST 1 (a, b)", "greenish"] {
            assert!(!covers(names, "green"), "{names}");
        }
    }

    #[test]
    fn a_green_that_blues_commits_await_is_refused() {
        let awaits = |names: &str| World::with(|w| w.blue().synchronous_standby_names = names.to_owned());
        assert_answers(&World::new(), "synchronous-standby-names", "fine");
        assert_answers(&awaits("green"), "synchronous-standby-names", "refused");
        assert_answers(&awaits("ANY 1 (*)"), "synchronous-standby-names", "refused");
        assert_answers(&awaits("other"), "synchronous-standby-names", "fine");
        let mut by_slot = awaits("other");
        by_slot.blue().standbys[0].sync_state = "quorum".to_owned();
        assert_answers(&by_slot, "synchronous-standby-names", "refused");
    }

    #[test]
    fn a_green_whose_commits_would_hang_or_be_alone_is_noticed() {
        let code = "green-synchronous-standby-names";
        assert_answers(&World::new(), code, "none");
        assert_answers(&World::with(|w| w.blue().synchronous_standby_names = "other".to_owned()), code, "needs_accept");
        let mut hangs = World::with(|w| w.green().synchronous_standby_names = "below".to_owned());
        assert_answers(&hangs, code, "refused");
        hangs.green().standbys.push(StandbySurvey {
            application_name: "below".to_owned(),
            slot: None,
            client_addr: None,
            state: "streaming".to_owned(),
            sync_state: "async".to_owned(),
        });
        assert_answers(&hangs, code, "needs_accept");
    }

    #[test]
    fn commits_that_are_late_are_awaited_by_the_marker() {
        assert_answers(&World::new(), "synchronous-commit", "none");
        assert_answers(&World::with(|w| w.blue().synchronous_commit = "off".to_owned()), "synchronous-commit", "handled");
    }

    #[test]
    fn a_prepared_transaction_is_refused_now_and_watched_for_later() {
        let code = "prepared-transactions";
        assert_answers(&World::new(), code, "fine");
        assert_answers(&World::with(|w| w.blue().prepared_transactions_max = 10), code, "handled");
        assert_answers(&World::with(|w| w.blue().prepared_transactions.push("t1 (shop)".to_owned())), code, "refused");
    }

    #[test]
    fn a_long_transaction_is_left_to_the_window() {
        let aged = |age_secs| {
            let transaction = TransactionSurvey {
                pid: 42,
                age_secs,
                user: "report".to_owned(),
                application_name: String::new(),
                state: "active".to_owned(),
            };
            World::with(|w| w.blue().long_transactions.push(transaction.clone()))
        };
        assert_answers(&aged(2), "long-transactions", "fine");
        assert_answers(&aged(7200), "long-transactions", "handled");
    }
}
