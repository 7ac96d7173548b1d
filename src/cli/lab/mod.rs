//! `greenlight lab`: a throwaway world of real servers, and what is shown and measured in it.

mod bench;
mod bench_freeze;
mod bench_restore;
mod bench_stall;
mod campaign;
mod demo;
mod drill;

use super::arguments::{LabArgs, LabCommand, Output, Shared};
use super::{Exit, print};
use crate::lab::{Options, World, find_pgbouncer, shop};
use crate::postgres::programs::Installed;
use crate::process::files;
use crate::wire;
use crate::word::{Side, shell_word};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub(super) async fn run(shared: &Shared, command: LabCommand) -> anyhow::Result<Exit> {
    match command {
        LabCommand::Up(args) => up(shared, &args).await,
        LabCommand::Down(args) => down(shared, &args),
        // Dropping what runs removes the world, so Ctrl-C leaves nothing behind.
        LabCommand::Demo(args) => Box::pin(until_interrupted(demo::run(shared, &args))).await,
        LabCommand::Bench(args) => Box::pin(until_interrupted(bench::run(shared, &args))).await,
        LabCommand::Campaign(args) => Box::pin(until_interrupted(campaign::run(shared, &args))).await,
    }
}

async fn until_interrupted(work: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => {
            print::say("interrupted; everything that was started is removed");
            Ok(Exit::Interrupted)
        }
    }
}

async fn up(shared: &Shared, args: &LabArgs) -> anyhow::Result<Exit> {
    let mut world = World::up(&options(args, "shop").await?, &print::say).await?;
    let playbook = write_playbook(&world, &Soak { secs: 3600, gated: true, on_failure: "rollback" })?;
    world.keep();
    let dir = shell_word(&args.dir.display().to_string());
    match shared.output {
        Output::Json => print::json(&serde_json::json!({
            "playbook": playbook, "blue": world.url(Side::Blue), "green": world.url(Side::Green),
            "application": world.through_url(0), "pgbouncer": world.admin_url(0),
        })),
        Output::Text => print::data(&playbook.display().to_string()),
    }
    print::say(&format!("blue, its standby green and PgBouncer run below {dir}; the shop is on {}", world.through(0)));
    print::say(&format!(
        "Next: `greenlight plan {0}`, then `greenlight run {0}`; `greenlight lab down --dir {dir}` removes it all",
        shell_word(&playbook.display().to_string())
    ));
    Ok(Exit::Completed)
}

fn down(shared: &Shared, args: &LabArgs) -> anyhow::Result<Exit> {
    World::load(&args.dir)?.down()?;
    if shared.output == Output::Json {
        print::json(&serde_json::json!({ "removed": args.dir }));
    }
    print::say(&format!(
        "removed the lab in {}. Runs of it that were open are lost: their journal can be removed too",
        args.dir.display()
    ));
    Ok(Exit::Completed)
}

async fn options(args: &LabArgs, database: &str) -> anyhow::Result<Options> {
    let path = wire::environment("PATH").map(OsString::from);
    Ok(Options {
        dir: args.dir.clone(),
        installed: Installed::find(args.pg_dirs.as_deref(), path.as_deref()).await,
        major: args.postgres,
        pgbouncer: find_pgbouncer(path.as_deref())?,
        pgbouncers: 1,
        fsync: true,
        scale: f64::from(args.scale),
        database: database.to_owned(),
        with_green: true,
        settings: Vec::new(),
    })
}

struct Soak {
    secs: u64,
    /// A person opens the window.
    gated: bool,
    /// The playbook's word.
    on_failure: &'static str,
}

/// The world's playbook, with the shop's migrations beside it.
fn write_playbook(world: &World, soak: &Soak) -> anyhow::Result<PathBuf> {
    let folder = world.dir().join("migrations");
    files::make_private_folder(&folder, "")?;
    shop::write_migrations(&folder)?;
    let path = world.dir().join("shop.yaml");
    files::write_private(&path, playbook_text(world, &folder, soak).as_bytes())?;
    Ok(path)
}

fn playbook_text(world: &World, migrations: &Path, soak: &Soak) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let gate = if soak.gated { "gates:\n  before_window: {approval: true}\n" } else { "" };
    let routes: Vec<String> = (0..world.routes().len())
        .map(|number| {
            format!(
                "  - pgbouncer:\n      name: main{number}\n      admin: {}\n      database: {}\n      config: {}\n      probe: {}\n",
                text(&world.admin_url(number)),
                text(world.pgbouncer_database()),
                text(&world.pgbouncer_config(number).display().to_string()),
                text(&world.through_url(number)),
            )
        })
        .collect();
    format!(
        "version: 1\nname: shop\nstrategy: sync\nblue:\n  url: {}\ngreen:\n  url: {}\nmigrations:\n  dir: {}\nroutes:\n{}\
         validate:\n  rows: true\n  assertions:\n    - name: every order has a customer\n      \
         query: select count(*) from orders o where not exists (select from customers c where c.id = o.customer_id)\n      expect: 0\n\
         window:\n  max_pause: 5s\n  max_lag: 4MiB\n{gate}soak: {{for: {}s, then: wait}}\non_failure: {on_failure}\n\
         limits: {{wal_kept: 20GiB}}\naccept: [no-archive, \"backfill:public.customers\"]\n",
        text(&world.url(Side::Blue)),
        text(&world.url(Side::Green)),
        text(&migrations.display().to_string()),
        routes.concat(),
        soak.secs,
        on_failure = soak.on_failure,
    )
}
