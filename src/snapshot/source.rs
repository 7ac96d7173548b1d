//! The server whose backups these are, over SQL.

use super::Point;
use crate::postgres::client::{Session, SessionOptions, cell, one};
use crate::word::{Endpoint, Lsn, PortError, Timestamp};
use std::time::Duration;
use tokio_postgres::types::{PgLsn, Type};

/// The server, as Greenlight reaches it and as the store's host does.
#[derive(Clone, Debug)]
pub struct Source {
    pub at: Endpoint,
    pub from_host: Endpoint,
}

/// What a backup must know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) major: u32,
    pub(super) system_identifier: u64,
    pub(super) segment_bytes: u64,
    pub(super) tablespaces: Vec<Tablespace>,
    pub(super) now: Timestamp,
    pub(super) bytes: u64,
}

/// One with a folder of its own, outside the data folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tablespace {
    pub(super) oid: u32,
    pub(super) folder: String,
}

impl Tablespace {
    fn read(line: &str) -> Option<Tablespace> {
        let (oid, folder) = line.split_once(' ')?;
        Some(Tablespace { oid: oid.parse().ok()?, folder: folder.to_owned() })
    }
}

/// How long one question may take.
const LIMIT: Duration = Duration::from_mins(1);

const FACTS: &str = "SELECT (current_setting('server_version_num')::int / 10000), \
    (SELECT system_identifier FROM pg_control_system()), \
    (SELECT bytes_per_wal_segment::bigint FROM pg_control_init()), \
    (SELECT coalesce(array_agg(oid || ' ' || pg_tablespace_location(oid) ORDER BY oid), '{}') FROM pg_tablespace \
        WHERE pg_tablespace_location(oid) LIKE '/%'), \
    clock_timestamp(), (SELECT sum(pg_database_size(oid))::bigint FROM pg_database)";

const TIMELINE: &str = "('x' || left(pg_walfile_name($1::pg_lsn), 8))::bit(32)::int";

impl Source {
    /// # Errors
    /// As `Session::open`.
    pub async fn session(&self) -> Result<Session, PortError> {
        let options = SessionOptions::ours("greenlight/snapshot", LIMIT, LIMIT);
        Session::open(&self.at, &options, "the server").await
    }

    pub(super) async fn facts(&self) -> Result<Facts, PortError> {
        let attempted = "read what a backup must know";
        let rows = self.session().await?.read(attempted, FACTS, &[]).await?;
        let row = rows.first().ok_or_else(|| PortError::refused(attempted))?;
        Ok(Facts {
            major: cell::<i32>(row, 0)?.cast_unsigned(),
            system_identifier: cell::<i64>(row, 1)?.cast_unsigned(),
            segment_bytes: cell::<i64>(row, 2)?.cast_unsigned(),
            tablespaces: cell::<Vec<String>>(row, 3)?.iter().filter_map(|line| Tablespace::read(line)).collect(),
            now: cell(row, 4)?,
            bytes: cell::<Option<i64>>(row, 5)?.unwrap_or(0).cast_unsigned(),
        })
    }

    /// Names this place in the log.
    ///
    /// # Errors
    /// `Uncertain` when it may have been made: a second one of the same name does no harm, since the later counts.
    pub async fn create_restore_point(&self, name: &str) -> Result<Point, PortError> {
        let attempted = format!("create restore point `{name}`");
        let session = self.session().await?;
        let rows =
            session.change(&attempted, "SELECT pg_create_restore_point($1), clock_timestamp()", &[(&name, Type::TEXT)]).await?;
        let row = rows.first().ok_or_else(|| PortError::uncertain(attempted.clone()))?;
        let lsn: PgLsn = cell(row, 0)?;
        // The name is of the segment before a place on a boundary, where this record indeed ends.
        let sql = format!("SELECT {TIMELINE}");
        let timeline = session.read("read the timeline", &sql, &[(&lsn, Type::PG_LSN)]).await?;
        let timeline = cell::<i32>(one(&timeline)?, 0)?.cast_unsigned();
        Ok(Point { name: name.to_owned(), lsn: Lsn(lsn.into()), timeline, at: cell(row, 1)? })
    }

    /// Ends the present segment, which has something in it, and names it; and the place where it ended.
    pub(super) async fn switch_segment(&self) -> Result<(String, Lsn), PortError> {
        let session = self.session().await?;
        // An empty segment would not be switched.
        session.change("write a record", "SELECT pg_logical_emit_message(false, 'greenlight', 'archive check')", &[]).await?;
        let sql = "SELECT pg_walfile_name(l), l FROM pg_switch_wal() l";
        let rows = session.change("end the segment", sql, &[]).await?;
        let row = rows.first().ok_or_else(|| PortError::uncertain("end the segment"))?;
        Ok((cell(row, 0)?, Lsn(cell::<PgLsn>(row, 1)?.into())))
    }
}
