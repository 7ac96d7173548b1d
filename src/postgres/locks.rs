//! Who is in the way of one who only looks.

use super::failure::sqlstate;
use crate::word::PortError;
use tokio_postgres::Client;

/// Those who keep even readers away from a table. Qualified, since it is asked in sessions of applications too; the table's
/// name is had without a lock on it.
const IN_THE_WAY: &str = "SELECT pg_catalog.format('%s is locked by process %s (user %s, %s, in a transaction since %s)', \
        l.relation::pg_catalog.regclass, l.pid, \
        coalesce(a.usename::pg_catalog.text, a.backend_type, 'not known'), \
        CASE WHEN a.application_name OPERATOR(pg_catalog.<>) '' THEN a.application_name ELSE 'without a name' END, \
        coalesce(pg_catalog.date_trunc('second', a.xact_start)::pg_catalog.text, 'a time not known')), \
        l.pid, a.backend_type OPERATOR(pg_catalog.=) 'client backend' \
    FROM pg_catalog.pg_locks AS l LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid OPERATOR(pg_catalog.=) l.pid \
    WHERE l.locktype OPERATOR(pg_catalog.=) 'relation' AND l.mode OPERATOR(pg_catalog.=) 'AccessExclusiveLock' AND l.granted \
        AND l.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid() \
        AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database AS d \
            WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()) \
    ORDER BY 1 LIMIT 5";

/// A lock that did not come in time, with who has it, and what to do. Any other error as it is. The session is in no
/// transaction.
pub(crate) async fn explained(client: &Client, error: PortError) -> PortError {
    if sqlstate(&error) == Some("55P03") { with_holders(client, error).await } else { error }
}

/// The same for an error that is known to be one of a lock.
pub(crate) async fn with_holders(client: &Client, error: PortError) -> PortError {
    let Ok(rows) = client.query(IN_THE_WAY, &[]).await else { return error };
    let texts: Vec<&str> = rows.iter().filter_map(|row| row.try_get(0).ok()).collect();
    let Some(first) = rows.first().filter(|_| !texts.is_empty()) else { return error };
    let hint = match (first.try_get::<_, i32>(1), first.try_get::<_, Option<bool>>(2)) {
        (Ok(pid), Ok(Some(true))) => {
            format!("wait until it is done and try again, or end it on that server: SELECT pg_terminate_backend({pid})")
        }
        _ => "wait until it is done and try again; on a standby it is a transaction of its primary".to_owned(),
    };
    PortError::transient(error.attempted.clone()).because(texts.join("; ")).hint(hint)
}
