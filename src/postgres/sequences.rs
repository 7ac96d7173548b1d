//! Sequences are not replicated: their values are read on one side and set on the other, all in one statement each.

use super::{SequenceValue, client::cell, server::PgServer};
use crate::word::{PortError, RelationName};
use tokio_postgres::types::Type;

pub(super) async fn read(server: &PgServer) -> Result<Vec<SequenceValue>, PortError> {
    let sql = "SELECT schemaname, sequencename, last_value, increment_by FROM pg_sequences \
               WHERE schemaname NOT IN ('pg_catalog', 'information_schema', 'greenlight') AND schemaname !~ '^pg_temp' \
               ORDER BY 1, 2";
    let rows = server.session().await?.read("read the sequences", sql, &[]).await?;
    rows.iter()
        .map(|row| {
            Ok(SequenceValue {
                sequence: RelationName::new(cell::<&str>(row, 0)?, cell::<&str>(row, 1)?),
                last_value: cell(row, 2)?,
                increment: cell(row, 3)?,
            })
        })
        .collect()
}

/// Never back, and never beyond the sequence's own bounds. Where the margin would lead beyond them, there is none: a
/// sequence at its end gives no more values, which would be worse than a margin that is missing.
const SET: &str = "
    WITH wanted AS (
        SELECT c.oid, s.seqincrement::numeric AS step, s.seqmin::numeric AS low, s.seqmax::numeric AS high,
               pg_sequence_last_value(c.oid)::numeric AS now, w.last::numeric AS last
        FROM unnest($1::text[], $2::text[], $3::int8[]) AS w (schema, name, last)
        JOIN pg_namespace n ON n.nspname = w.schema
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind = 'S'
        JOIN pg_sequence s ON s.seqrelid = c.oid
    ), target AS (
        SELECT oid, step, now,
               CASE WHEN last + step * $4::numeric BETWEEN low AND high THEN last + step * $4::numeric
                    ELSE least(greatest(last, low), high) END AS value
        FROM wanted
    )
    SELECT count(setval(oid::regclass, value::int8)) FROM target
    WHERE now IS NULL OR (step > 0 AND value > now) OR (step < 0 AND value < now)";

pub(super) async fn set(server: &PgServer, values: &[SequenceValue], margin: u64) -> Result<(), PortError> {
    let used: Vec<(&RelationName, i64)> = values.iter().filter_map(|value| Some((&value.sequence, value.last_value?))).collect();
    if used.is_empty() {
        return Ok(());
    }
    let schemas: Vec<&str> = used.iter().map(|(name, _)| name.schema.as_str()).collect();
    let names: Vec<&str> = used.iter().map(|(name, _)| name.name.as_str()).collect();
    let lasts: Vec<i64> = used.iter().map(|(_, last)| *last).collect();
    let margin = i64::try_from(margin).unwrap_or(i64::MAX);
    let params = [
        (&schemas as _, Type::TEXT_ARRAY),
        (&names as _, Type::TEXT_ARRAY),
        (&lasts as _, Type::INT8_ARRAY),
        (&margin as _, Type::INT8),
    ];
    server.session().await?.change("set the sequences", SET, &params).await.map(drop)
}
