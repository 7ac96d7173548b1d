//! `greenlight check` and `greenlight schema`: playbooks without servers.

use super::arguments::{CheckArgs, Output, Shared};
use super::{Exit, print};
use crate::playbook::{self, Playbook};
use crate::wire;
use crate::word::shell_word;
use std::path::Path;

pub(super) fn check(shared: &Shared, args: &CheckArgs) -> Exit {
    if load_or_say(shared, &args.playbook).is_none() {
        return Exit::Playbook;
    }
    if shared.output == Output::Json {
        print::json(&serde_json::json!({ "file": args.playbook, "problems": [], "more": 0 }));
    }
    let path = args.playbook.display();
    let word = shell_word(&path.to_string());
    print::say(&format!("{path} is in order. Next: `greenlight plan {word}` looks at the servers and changes nothing"));
    Exit::Completed
}

pub(super) fn schema() -> Exit {
    print::json(&playbook::json_schema());
    Exit::Completed
}

/// Reads a playbook; says all its problems where it has any, and gives `None`.
pub(super) fn load_or_say(shared: &Shared, path: &Path) -> Option<Playbook> {
    match playbook::load(path, &wire::environment) {
        Ok(playbook) => Some(playbook),
        Err(problems) => {
            if shared.output == Output::Json {
                print::json(&problems);
            }
            print::complain_in_colours(&problems.render(print::colours()));
            print::say(&format!(
                "\n{problems}; no server was asked. Next: mend them, and `greenlight check {}` again",
                shell_word(&path.display().to_string())
            ));
            None
        }
    }
}
