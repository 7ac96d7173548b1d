//! `greenlight init`: look at two servers and write a first playbook.

use super::arguments::InitArgs;
use super::{Exit, print};
use crate::wire;

pub(super) async fn run(args: &InitArgs) -> anyhow::Result<Exit> {
    let text = wire::first_playbook(&args.blue, &args.green, args.pgbouncer.as_deref()).await?;
    print::data(&text);
    print::say(
        "nothing was changed. Next: put this into a file such as `shop.yaml`, fill in what is marked, and `greenlight check shop.yaml`",
    );
    Ok(Exit::Completed)
}
