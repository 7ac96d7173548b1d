//! `greenlight init`: look at two servers and write a first playbook.

use super::arguments::{InitArgs, Output, Shared};
use super::{Exit, print};
use crate::wire;

pub(super) async fn run(shared: &Shared, args: &InitArgs) -> anyhow::Result<Exit> {
    let text = wire::first_playbook(&args.blue, &args.green, args.pgbouncer.as_deref()).await?;
    match shared.output {
        Output::Json => print::json(&serde_json::json!({ "playbook": text })),
        // Names in it are YAML, which has its own way to write what cannot be seen.
        Output::Text => print::raw(text.as_bytes())?,
    }
    print::say(
        "nothing was changed. Next: put this into a file such as `shop.yaml`, fill in what is marked with FILL IN, and `greenlight check shop.yaml`",
    );
    Ok(Exit::Completed)
}
