//! `greenlight salvage`: what a damaged server has beyond a restored one, listed, written, and applied.

use super::arguments::{Conflict, Output, SalvageArgs, SalvageFormat, Shared};
use super::{Exit, print};
use crate::process::files;
use crate::snapshot::salvage::{self, OnConflict, SalvageTable, TableDifference};
use crate::wire;
use crate::word::{Endpoint, Failure, PortError, shown};
use anyhow::{Context, bail};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub(super) async fn run(shared: &Shared, args: &SalvageArgs) -> anyhow::Result<Exit> {
    let (damaged, restored) =
        (wire::typed_endpoint(&args.damaged, "`--damaged`")?, wire::typed_endpoint(&args.restored, "`--restored`")?);
    let (all, uncompared) = salvage::tables(&damaged, &restored).await?;
    let chosen: Vec<&SalvageTable> =
        all.iter().filter(|table| args.table.is_empty() || args.table.contains(&table.name.to_string())).collect();
    if let Some(unknown) = args.table.iter().find(|name| !all.iter().any(|table| table.name.to_string() == **name)) {
        bail!("there is no table `{unknown}` that can be compared; write it as `public.orders`");
    }
    let exit = match &args.apply_to {
        Some(to) => apply(shared, args, &chosen, &damaged, &restored, &wire::typed_endpoint(to, "`--apply-to`")?).await?,
        None => list(shared, args, &chosen, &damaged, &restored).await?,
    };
    if args.table.is_empty() {
        for table in &uncompared {
            print::say(&format!("not compared: {}: {}", table.table, shown(&table.why)));
        }
    }
    Ok(exit)
}

async fn list(
    shared: &Shared,
    args: &SalvageArgs,
    tables: &[&SalvageTable],
    damaged: &Endpoint,
    restored: &Endpoint,
) -> anyhow::Result<Exit> {
    let mut seen: Vec<(&SalvageTable, TableDifference)> = Vec::new();
    for table in tables {
        let mut file = Target::open(args, table)?;
        let difference =
            salvage::compare(table, damaged, restored, async |change: salvage::Change| file.write(table, &change)).await?;
        file.close()?;
        if difference != TableDifference::default() {
            seen.push((table, difference));
        }
    }
    if shared.output == Output::Json {
        let found: Vec<_> =
            seen.iter().map(|(table, found)| serde_json::json!({ "table": table.name.to_string(), "found": found })).collect();
        print::json(&found);
    } else {
        for (table, found) in &seen {
            print::data(&format!(
                "{}: {} only on the damaged server, {} with other values there, {} only on the restored one",
                table.name, found.missing, found.changed, found.only_restored
            ));
        }
    }
    let rows: u64 = seen.iter().map(|(_, found)| found.missing + found.changed).sum();
    let written = args.out.as_ref().map(|folder| format!(", written below `{}`", folder.display())).unwrap_or_default();
    print::say(&format!(
        "{rows} rows in {} of {} tables could be salvaged{written}. Nothing was changed. \
         Next: `--out DIR` writes them, `--apply-to URL` tries them on a server, with `--commit` it keeps them",
        seen.len(),
        tables.len()
    ));
    Ok(Exit::Completed)
}

async fn apply(
    shared: &Shared,
    args: &SalvageArgs,
    tables: &[&SalvageTable],
    damaged: &Endpoint,
    restored: &Endpoint,
    to: &Endpoint,
) -> anyhow::Result<Exit> {
    let on_conflict = match args.on_conflict {
        Conflict::Keep => OnConflict::Keep,
        Conflict::Overwrite => OnConflict::Overwrite,
        Conflict::Stop => OnConflict::Stop,
    };
    let mut failed = 0;
    let mut all = Vec::new();
    for table in tables {
        match salvage::apply(table, damaged, restored, to, on_conflict, args.commit).await {
            Ok(applied) if applied.missing + applied.changed > 0 => {
                let would = if applied.committed { "" } else { "would be " };
                if shared.output == Output::Text {
                    print::data(&format!(
                        "{}: {} of {} rows {would}written",
                        table.name,
                        applied.written,
                        applied.missing + applied.changed
                    ));
                }
                all.push(serde_json::json!({ "table": table.name.to_string(), "applied": applied }));
            }
            Ok(_) => (),
            Err(error) => {
                failed += 1;
                let sure = if error.failure == Failure::Uncertain {
                    "it is not known whether it was written"
                } else {
                    "nothing of it was written"
                };
                print::say(&format!("{}: {sure}: {}", table.name, shown(&error.chain())));
            }
        }
    }
    if shared.output == Output::Json {
        print::json(&all);
    }
    print::say(&match (args.commit, failed) {
        (false, _) => "everything was taken back again. Next: the same with `--commit` keeps it".to_owned(),
        (true, 0) => "what is listed is committed, a transaction for each table".to_owned(),
        (true, failed) => format!("{failed} tables could not be written; the others are committed"),
    });
    Ok(if failed == 0 { Exit::Completed } else { Exit::Fault })
}

/// The file of one table, if files are asked for; made with its first row. Until it is whole it is called otherwise.
struct Target {
    path: Option<PathBuf>,
    file: Option<BufWriter<File>>,
    format: SalvageFormat,
}

impl Target {
    fn open(args: &SalvageArgs, table: &SalvageTable) -> anyhow::Result<Target> {
        let Some(folder) = &args.out else { return Ok(Target { path: None, file: None, format: args.format }) };
        // Rows of a database: for this user only.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("could not make the folder `{}`", folder.display()))?;
        let ending = if args.format == SalvageFormat::Sql { "sql" } else { "csv" };
        let name = format!("{}.{ending}", table.name).replace('/', "%2f");
        Ok(Target { path: Some(folder.join(name)), file: None, format: args.format })
    }

    fn write(&mut self, table: &SalvageTable, change: &salvage::Change) -> Result<(), PortError> {
        let Some(path) = &self.path else { return Ok(()) };
        let attempted = || PortError::refused(format!("write `{}`", path.display()));
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                // One that is there may hold what was salvaged before, and was worked on since.
                if path.exists() {
                    return Err(attempted().because("it is there already").hint("name another folder"));
                }
                // Half of one is of no use to anybody.
                // What an earlier try has left goes first: the name alone, wherever it leads.
                match std::fs::remove_file(unfinished(path)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(attempted().because(error)),
                    _ => (),
                }
                let mut file = BufWriter::new(files::create_private(&unfinished(path)).map_err(|e| attempted().because(e))?);
                if self.format == SalvageFormat::Csv {
                    writeln!(file, "{}", salvage::csv(table, None)).map_err(|e| attempted().because(e))?;
                }
                none.insert(file)
            }
        };
        let line = match self.format {
            SalvageFormat::Sql => format!("{};", salvage::sql(table, &[&change.values], OnConflict::Overwrite)),
            SalvageFormat::Csv => salvage::csv(table, Some(change)),
        };
        writeln!(file, "{line}").map_err(|e| attempted().because(e))
    }

    fn close(self) -> anyhow::Result<()> {
        if let (Some(path), Some(file)) = (self.path, self.file) {
            file.into_inner().context("could not write what was salvaged")?.sync_all()?;
            std::fs::rename(unfinished(&path), &path).with_context(|| format!("could not name `{}`", path.display()))?;
        }
        Ok(())
    }
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}
