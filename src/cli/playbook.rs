//! `greenlight check` and `greenlight schema`: playbooks without servers.

use super::arguments::{CheckArgs, Output, Shared};
use super::{Exit, print};
use crate::migrate::files;
use crate::playbook::{self, Playbook};
use crate::wire;
use crate::word::shell_word;
use std::path::Path;

pub(super) fn check(shared: &Shared, args: &CheckArgs) -> Exit {
    let Some(playbook) = load_or_say(shared, &args.playbook) else { return Exit::Playbook };
    let problems = playbook.migrations_dir.as_deref().and_then(|folder| files::read(folder).err()).unwrap_or_default();
    if shared.output == Output::Json {
        let of_file = |problem: &files::FileProblem| serde_json::json!({ "file": problem.path, "line": problem.line, "what": problem.problem });
        let problems: Vec<serde_json::Value> = problems.iter().map(of_file).collect();
        print::json(&serde_json::json!({ "file": args.playbook, "problems": problems, "more": 0 }));
    }
    let path = args.playbook.display();
    let word = shell_word(&path.to_string());
    if !problems.is_empty() {
        print::complain(&files::Unusable(problems).to_string());
        print::say(&format!("no server was asked. Next: mend them, and `greenlight check {word}` again"));
        return Exit::Playbook;
    }
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
