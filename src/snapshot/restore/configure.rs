//! How a restored server is set: to recover up to the target and no further, and to wake nothing that it copied.

use super::{Place, RestorePlan, Target};
use crate::snapshot::host::{Version, quoted, text};
use crate::snapshot::{Backup, tablespaces};
use crate::word::PortError;
use std::collections::BTreeMap;

/// Set for the time until it is promoted, and then taken back.
pub(super) const UNTIL_PROMOTED: [&str; 18] = [
    "restore_command",
    "recovery_target",
    "recovery_target_time",
    "recovery_target_lsn",
    "recovery_target_xid",
    "recovery_target_name",
    "recovery_target_inclusive",
    "recovery_target_timeline",
    "recovery_target_action",
    "wal_retrieve_retry_interval",
    "logging_collector",
    "log_destination",
    "lc_messages",
    "hot_standby",
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "promote_trigger_file",
];

fn settings(plan: &RestorePlan, restore_command: &str) -> Vec<(&'static str, String)> {
    let on = |name, value: &str| (name, value.to_owned());
    let mut settings = vec![
        ("port", plan.place.port.to_string()),
        ("restore_command", restore_command.to_owned()),
        // Left over from an earlier life of the server, any of them would end the recovery elsewhere.
        on("recovery_target", ""),
        on("recovery_target_time", ""),
        on("recovery_target_lsn", ""),
        on("recovery_target_xid", ""),
        on("recovery_target_name", ""),
        ("recovery_target_timeline", plan.timeline.to_string()),
        on("recovery_target_action", "pause"),
        on("hot_standby", "on"),
        // A copy's own would take from the archive that it is restored from, open it, or make it wait.
        on("archive_cleanup_command", ""),
        on("recovery_end_command", ""),
        on("recovery_min_apply_delay", "0"),
        on("wal_retrieve_retry_interval", "1s"),
        // What recovery says must come where it is looked for, in words that are known.
        on("logging_collector", "off"),
        on("log_destination", "stderr"),
        on("lc_messages", "C"),
        // It must not follow another server, write into that one's archive or over its pid file, or wait for its standbys.
        on("primary_conninfo", ""),
        on("primary_slot_name", ""),
        on("archive_mode", "off"),
        on("external_pid_file", ""),
        on("synchronous_standby_names", ""),
        // Once promoted, subscriptions and jobs that came with the copy would go on as if it were the server.
        on("max_logical_replication_workers", "0"),
        on("cron.launch_active_jobs", "off"),
    ];
    let (name, value, inclusive) = match &plan.target {
        Target::Latest => return settings,
        Target::Time(at) => ("recovery_target_time", at.strftime("%Y-%m-%d %H:%M:%S%.f+00").to_string(), true),
        // A place is the end of what was written until then: the record that begins there came later.
        Target::Lsn(lsn) => ("recovery_target_lsn", lsn.to_string(), false),
        Target::Transaction(xid) => ("recovery_target_xid", xid.to_string(), true),
        Target::Point(name) => ("recovery_target_name", name.clone(), true),
    };
    settings.retain(|(known, _)| *known != name);
    settings.push((name, value));
    settings.push(("recovery_target_inclusive", inclusive.to_string()));
    settings
}

/// Writes the settings, what the copy lacks, and the file that makes the server recover. Repeatable.
pub(super) async fn configure(
    place: &Place,
    plan: &RestorePlan,
    restore_command: &str,
    backup: &Backup,
) -> Result<(), PortError> {
    let host = &place.host;
    let folder = text(&place.data_dir);
    complete(place, backup.major).await?;
    let program = host.program("pg_waldump", backup.major, Version::Same).await?;
    let guard = place.data_dir.join("greenlight.guard");
    let searched = plan.searched.clone().unwrap_or_default();
    host.write(&guard, &tablespaces::guard(&searched, backup.segment_bytes, &program, restore_command)).await?;
    let guarded = format!("sh {} %f \"%p\"", quoted(&text(&guard)).replace('%', "%%"));
    let mut settings = settings(plan, &guarded);
    if backup.major < 16 {
        // No later version knows it.
        settings.push(("promote_trigger_file", String::new()));
    }
    if place.is_closed() {
        // The folder keeps all others out: it is 0700, and its user may do everything with the server anyway.
        let hba = place.data_dir.join("greenlight.hba");
        host.write(&hba, "local all all trust\n").await?;
        settings.extend([
            ("listen_addresses", String::new()),
            ("unix_socket_directories", format!("\"{}\"", text(&place.data_dir))),
            ("hba_file", text(&hba)),
        ]);
    }
    let lines: String = settings.iter().map(|(name, value)| setting_line(name, value)).collect();
    // The lines from an earlier try stand between the same two words.
    let script = r#"cd "$1" && umask 077 && touch postgresql.auto.conf &&
        sed '/^# greenlight restore: begin$/,/^# greenlight restore: end$/d' postgresql.auto.conf >greenlight.auto &&
        { echo '# greenlight restore: begin'; cat; echo '# greenlight restore: end'; } >>greenlight.auto &&
        sync greenlight.auto && mv -f greenlight.auto postgresql.auto.conf &&
        rm -f postmaster.pid recovery.signal standby.signal && : >"$2""#;
    // Without a target a standby stands at the end of the archive, where a recovery would open itself for writing.
    let signal = if plan.target == Target::Latest { "standby.signal" } else { "recovery.signal" };
    host.feed(&format!("configure `{folder}`"), script, &[&folder, signal], &lines).await
}

/// Raises settings to what the log says that the server has had: with less a standby stands still where that was changed, or ends.
pub(super) async fn raise(place: &Place, settings: &BTreeMap<String, u64>) -> Result<(), PortError> {
    let folder = text(&place.data_dir);
    let lines: String = settings.iter().map(|(name, value)| setting_line(name, &value.to_string())).collect();
    // They stay after the promotion: they are the server's own from then on.
    let script = r#"cd "$1" && umask 077 && cat >>postgresql.auto.conf && sync postgresql.auto.conf"#;
    place.host.feed(&format!("raise the settings of `{folder}`"), script, &[&folder], &lines).await
}

/// Servers whose configuration lies outside their data folder, as Debian's do, leave it out of their backups.
async fn complete(place: &Place, major: u32) -> Result<(), PortError> {
    let program = place.host.program("pg_controldata", major, Version::Same).await?;
    let script = r#"cd "$1" && umask 077
        if [ ! -e postgresql.conf ]; then
            "$2" . | sed -n "s/^max_connections setting: */max_connections = /p
                s/^max_worker_processes setting: */max_worker_processes = /p
                s/^max_wal_senders setting: */max_wal_senders = /p
                s/^max_prepared_xacts setting: */max_prepared_transactions = /p
                s/^max_locks_per_xact setting: */max_locks_per_transaction = /p" >postgresql.conf || exit 1
        fi
        [ -e pg_hba.conf ] || printf 'local all all peer\nhost all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n' >pg_hba.conf
        [ -e pg_ident.conf ] || : >pg_ident.conf"#;
    let folder = text(&place.data_dir);
    place.host.sh(&format!("complete the configuration of `{folder}`"), script, &[&folder, &program]).await?;
    Ok(())
}

fn setting_line(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''"))
}
