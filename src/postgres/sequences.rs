//! Sequences are not replicated: where they stand is read on one side and set on the other.

use super::{client::cell, server::PgServer};
use crate::word::{PortError, RelationName, quote_ident};
use std::collections::BTreeMap;
use tokio_postgres::types::Type;

/// Where a sequence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequencePlace {
    /// This value was given last.
    Gave(i64),
    /// None was given since the sequence was made or reset: this one is the next.
    Begins(i64),
    /// We may not read it. That is not the same as unused.
    Unreadable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceValue {
    pub sequence: RelationName,
    pub place: SequencePlace,
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub cycle: bool,
}

impl SequenceValue {
    /// The value that it gives next; beyond its bounds when it has come to its end. `None`: not known.
    fn next(&self) -> Option<i128> {
        match self.place {
            SequencePlace::Unreadable => None,
            SequencePlace::Begins(value) => Some(value.into()),
            SequencePlace::Gave(value) => {
                let next = i128::from(value) + i128::from(self.increment);
                let over = next < i128::from(self.min) || next > i128::from(self.max);
                let first = if self.increment > 0 { self.min } else { self.max };
                Some(if self.cycle && over { first.into() } else { next })
            }
        }
    }

    fn has_reached(&self, wanted: i128) -> bool {
        match self.next() {
            None => false,
            // What goes round has no before and after.
            Some(next) if self.cycle => next == wanted,
            Some(next) if self.increment > 0 => next >= wanted,
            Some(next) => next <= wanted,
        }
    }
}

/// Those of `ahead` that would give values which `wanted` has given already, each with both places. One that is not in `ahead` is
/// not needed there. One whose place is not known, on either side, is behind.
pub fn sequences_behind(wanted: &[SequenceValue], ahead: &[SequenceValue]) -> Vec<String> {
    let stands: BTreeMap<&RelationName, &SequenceValue> = ahead.iter().map(|value| (&value.sequence, value)).collect();
    let said = |value: &SequenceValue| value.next().map_or("a place that cannot be read".to_owned(), |next| next.to_string());
    let behind = wanted.iter().filter_map(|wanted| {
        let there = stands.get(&wanted.sequence)?;
        let reached = wanted.next().is_some_and(|next| there.has_reached(next));
        (!reached).then(|| format!("{} is to give {} next, not {}", wanted.sequence, said(there), said(wanted)))
    });
    behind.collect()
}

/// Those whose place may not be read.
pub fn sequences_unreadable(values: &[SequenceValue]) -> Vec<&RelationName> {
    values.iter().filter(|value| value.place == SequencePlace::Unreadable).map(|value| &value.sequence).collect()
}

/// How many sequences one statement asks.
const ASKED_AT_ONCE: usize = 500;

/// NULL as the last value means that there is none yet, or that we may not know: the privilege tells.
const READ: &str = "SELECT n.nspname, c.relname, \
      CASE WHEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT, USAGE') THEN pg_catalog.pg_sequence_last_value(c.oid) END, \
      pg_catalog.has_sequence_privilege(c.oid, 'SELECT') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'), \
      s.seqincrement, s.seqmin, s.seqmax, s.seqcycle \
    FROM pg_catalog.pg_sequence s \
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) s.seqrelid \
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'greenlight') AND n.nspname !~ '^pg_temp' ORDER BY 1, 2";

pub(super) async fn read(server: &PgServer) -> Result<Vec<SequenceValue>, PortError> {
    let attempted = "read the sequences";
    let session = server.session().await?;
    let rows = session.read(attempted, READ, &[]).await?;
    let mut values = Vec::with_capacity(rows.len());
    let mut unused = Vec::new();
    for row in &rows {
        let place = match (cell::<Option<i64>>(row, 2)?, cell::<bool>(row, 3)?) {
            (Some(last), _) => SequencePlace::Gave(last),
            (None, may_be_read) => {
                if may_be_read {
                    unused.push(values.len());
                }
                SequencePlace::Unreadable
            }
        };
        values.push(SequenceValue {
            sequence: RelationName::new(cell::<&str>(row, 0)?, cell::<&str>(row, 1)?),
            place,
            increment: cell(row, 4)?,
            min: cell(row, 5)?,
            max: cell(row, 6)?,
            cycle: cell(row, 7)?,
        });
    }
    for some in unused.chunks(ASKED_AT_ONCE) {
        // Only the sequence itself tells where it begins: `setval(.., false)` and RESTART set it to any place.
        let ask = |at: &usize| {
            let (schema, name) = (&values[*at].sequence.schema, &values[*at].sequence.name);
            format!("SELECT {at}::int8, last_value, is_called FROM {}.{}", quote_ident(schema), quote_ident(name))
        };
        let sql = some.iter().map(ask).collect::<Vec<_>>().join(" UNION ALL ");
        for row in &session.read(attempted, &sql, &[]).await? {
            let at = usize::try_from(cell::<i64>(row, 0)?).unwrap_or(usize::MAX);
            let place = if cell(row, 2)? { SequencePlace::Gave } else { SequencePlace::Begins };
            if let Some(value) = values.get_mut(at) {
                value.place = place(cell(row, 1)?);
            }
        }
    }
    Ok(values)
}

/// Never back, since a migration may have used or reset it here, and never beyond the sequence's own bounds. Where the margin would
/// lead beyond them, there is none: a sequence at its end gives no more values, which would be worse than a margin that is missing.
const SET: &str = "
    WITH wanted AS (
        SELECT c.oid, s.seqincrement::numeric AS step, s.seqmin::numeric AS low, s.seqmax::numeric AS high, s.seqcycle AS cycle,
               pg_sequence_last_value(c.oid)::numeric AS now, w.place::numeric AS place, w.given
        FROM unnest($1::text[], $2::text[], $3::int8[], $5::bool[]) AS w (schema, name, place, given)
        JOIN pg_namespace n ON n.nspname = w.schema
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind = 'S'
        JOIN pg_sequence s ON s.seqrelid = c.oid
    ), target AS (
        SELECT oid, step, now, given, cycle,
               CASE WHEN given AND NOT cycle AND place + step * $4::numeric BETWEEN low AND high THEN place + step * $4::numeric
                    ELSE least(greatest(place, low), high) END AS value
        FROM wanted
    )
    SELECT count(setval(oid::regclass, value::int8, given)) FROM target
    WHERE cycle OR now IS NULL OR (step > 0 AND value > now) OR (step < 0 AND value < now)";

/// # Errors
/// `Refused` when the place of one is not known: nothing is set then.
pub(super) async fn set(server: &PgServer, values: &[SequenceValue], margin: u64) -> Result<(), PortError> {
    let attempted = "set the sequences";
    if let Some(name) = sequences_unreadable(values).first() {
        return Err(PortError::refused(attempted).because(format!("nobody knows where {name} stands")).hint(format!(
            "GRANT SELECT ON SEQUENCE {} TO {}",
            name.sql(),
            quote_ident(&server.options.endpoint.user)
        )));
    }
    let values = not_begun_beyond(values, &read(server).await?);
    if values.is_empty() {
        return Ok(());
    }
    let schemas: Vec<&str> = values.iter().map(|value| value.sequence.schema.as_str()).collect();
    let names: Vec<&str> = values.iter().map(|value| value.sequence.name.as_str()).collect();
    let given: Vec<bool> = values.iter().map(|value| matches!(value.place, SequencePlace::Gave(_))).collect();
    let places: Vec<i64> = values.iter().map(|value| place_of(value)).collect();
    let margin = i64::try_from(margin).unwrap_or(i64::MAX);
    let params = [
        (&schemas as _, Type::TEXT_ARRAY),
        (&names as _, Type::TEXT_ARRAY),
        (&places as _, Type::INT8_ARRAY),
        (&margin as _, Type::INT8),
        (&given as _, Type::BOOL_ARRAY),
    ];
    server.session().await?.change(attempted, SET, &params).await.map(drop)
}

/// Those that are to be set. One that is to begin at a later place than is wanted stays as it is.
fn not_begun_beyond<'a>(wanted: &'a [SequenceValue], here: &[SequenceValue]) -> Vec<&'a SequenceValue> {
    let here: BTreeMap<&RelationName, &SequenceValue> = here.iter().map(|value| (&value.sequence, value)).collect();
    let begins_beyond = |wanted: &SequenceValue| {
        let there = here.get(&wanted.sequence).filter(|there| !there.cycle && matches!(there.place, SequencePlace::Begins(_)));
        there.zip(wanted.next()).is_some_and(|(there, next)| there.has_reached(next))
    };
    wanted.iter().filter(|wanted| !begins_beyond(wanted)).collect()
}

fn place_of(value: &SequenceValue) -> i64 {
    match value.place {
        SequencePlace::Gave(place) | SequencePlace::Begins(place) => place,
        SequencePlace::Unreadable => value.min,
    }
}

#[cfg(test)]
mod tests {
    use super::SequencePlace::{Begins, Gave, Unreadable};
    use super::*;

    fn at(name: &str, place: SequencePlace, increment: i64) -> SequenceValue {
        SequenceValue { sequence: RelationName::new("public", name), place, increment, min: -100, max: 100, cycle: false }
    }

    #[test]
    fn a_sequence_is_behind_when_it_would_give_again_what_the_other_gave() {
        let cases = [
            (at("up", Gave(5), 1), at("up", Gave(5), 1), ""),
            (at("up", Gave(5), 1), at("up", Begins(6), 1), ""),
            (at("up", Gave(5), 1), at("up", Gave(4), 1), "public.up is to give 5 next, not 6"),
            (at("up", Gave(5), 1), at("up", Begins(1), 1), "public.up is to give 1 next, not 6"),
            (at("reset", Begins(51), 1), at("reset", Gave(49), 1), "public.reset is to give 50 next, not 51"),
            (at("reset", Begins(51), 1), at("reset", Begins(1), 1), "public.reset is to give 1 next, not 51"),
            (at("reset", Begins(1), 1), at("reset", Gave(70), 1), ""),
            (at("down", Gave(-5), -1), at("down", Gave(-6), -1), ""),
            (at("down", Gave(-5), -1), at("down", Gave(-4), -1), "public.down is to give -5 next, not -6"),
            (at("unused", Begins(1), 1), at("unused", Begins(1), 1), ""),
            (at("ended", Gave(100), 1), at("ended", Gave(100), 1), ""),
            (at("ended", Gave(100), 1), at("ended", Gave(99), 1), "public.ended is to give 100 next, not 101"),
            (
                at("hidden", Unreadable, 1),
                at("hidden", Gave(7), 1),
                "public.hidden is to give 8 next, not a place that cannot be read",
            ),
            (
                at("hidden", Gave(7), 1),
                at("hidden", Unreadable, 1),
                "public.hidden is to give a place that cannot be read next, not 8",
            ),
            (at("dropped", Gave(5), 1), at("another", Begins(1), 1), ""),
        ];
        for (wanted, ahead, said) in cases {
            assert_eq!(sequences_behind(&[wanted], &[ahead]).join(", "), said);
        }
    }

    #[test]
    fn a_sequence_that_goes_round_stands_at_the_same_place_or_is_behind() {
        let round = |place| SequenceValue { cycle: true, ..at("round", place, 1) };
        for (wanted, ahead, same) in [
            (Gave(100), Begins(-100), true),
            (Gave(100), Gave(100), true),
            (Gave(3), Gave(90), false),
            (Begins(7), Gave(6), true),
        ] {
            assert_eq!(sequences_behind(&[round(wanted)], &[round(ahead)]).is_empty(), same, "{wanted:?} {ahead:?}");
        }
    }
}
