//! The playbook's own assertions, on green or on a restored server: a query's one value, as text.
//!
//! A query calls what the applications' roles made: functions, views, and whatever its names and operators are found to be. In our
//! session that would run with our rights, and no `SET ROLE` keeps it from taking them back. So the query is run by a function
//! that is made for it and belongs to `pg_read_all_data`: nobody can become another role inside it, the transaction only reads
//! by then, and it is taken back with all that was left for its end. A server in recovery cannot make a function: there the query
//! runs as it is, which the plan says.

use super::{Difference, Findings, Progress, Validator};
use crate::plan::AssertionSpec;
use crate::postgres::client::{Session, SessionOptions};
use crate::postgres::failure::{self, Effect};
use crate::word::{Endpoint, PortError, quote_literal};
use async_trait::async_trait;
use std::time::Duration;
use tokio_postgres::SimpleQueryMessage;

const LIMIT: Duration = Duration::from_mins(5);

#[derive(Debug)]
pub(super) struct Assertions {
    /// The server for people, such as `green`.
    pub(super) on: &'static str,
    pub(super) at: Endpoint,
    pub(super) application_name: String,
    pub(super) list: Vec<AssertionSpec>,
}

#[async_trait]
impl Validator for Assertions {
    fn name(&self) -> &'static str {
        "assertions"
    }

    async fn check(&self, progress: Progress<'_>) -> Result<Findings, PortError> {
        let mut findings = Findings::default();
        for (at, assertion) in self.list.iter().enumerate() {
            progress(&assertion.name, at as u64, self.list.len() as u64);
            let value = self.value(assertion).await?;
            if value.as_deref() != Some(assertion.expect.as_str()) {
                let what = format!("is {}, not {}", value.as_deref().unwrap_or("NULL"), assertion.expect);
                findings.differences.push(Difference { object: assertion.name.clone(), key: None, what });
            }
        }
        Ok(findings)
    }
}

impl Assertions {
    async fn value(&self, assertion: &AssertionSpec) -> Result<Option<String>, PortError> {
        let attempted = || format!("ask {} about `{}`", self.on, assertion.name);
        // The query is the playbook's: names resolve as they do for applications, and nothing is written.
        let options = SessionOptions::for_applications(&self.application_name, LIMIT).with("lock_timeout", "10s").read_only();
        let session = Session::open(&self.at, &options, self.on).await?;
        let recovers = session.read(&attempted(), "SELECT pg_catalog.pg_is_in_recovery()", &[]).await?;
        let sql =
            if recovers.iter().any(|row| row.get(0)) { value_of(&assertion.query) } else { with_few_rights(&assertion.query) };
        let answer = session.client().simple_query(&sql).await;
        let answer = answer.map_err(|error| failed(attempted(), &error))?;
        let mut rows = answer.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows.next().and_then(|row| row.get(0).map(str::to_owned)))
    }
}

/// The one value of a query, as text; null when it has no row.
fn value_of(query: &str) -> String {
    let query = query.trim().trim_end_matches(';');
    // A comment at the query's end ends with its line.
    format!(
        "SELECT CASE WHEN value IS NOT DISTINCT FROM NULL THEN NULL ELSE pg_catalog.format('%s', value) END \
         FROM (SELECT ({query}\n) AS value) AS asserted"
    )
}

fn with_few_rights(query: &str) -> String {
    let query = quote_literal(&value_of(query));
    format!(
        "BEGIN; SET LOCAL transaction_read_only = off;
         CREATE FUNCTION pg_temp.greenlight_assertion(query pg_catalog.text) RETURNS pg_catalog.text LANGUAGE plpgsql SECURITY DEFINER
             AS $$ DECLARE value pg_catalog.text; BEGIN EXECUTE query INTO value; RETURN value; END $$;
         ALTER FUNCTION pg_temp.greenlight_assertion(pg_catalog.text) OWNER TO pg_read_all_data;
         SET LOCAL transaction_read_only = on;
         SELECT pg_temp.greenlight_assertion({query}); ROLLBACK"
    )
}

fn failed(attempted: String, error: &tokio_postgres::Error) -> PortError {
    let error = failure::of_call(attempted, Effect::Read, error);
    match failure::sqlstate(&error) {
        Some("42601" | "21000") => error.hint("its query must give one row of one value: mend it in the playbook"),
        Some("42501" | "25006") => error.hint(
            "assertions run as `pg_read_all_data` and only read; what needs more, such as a table with row level security, is asked \
             through a function of its owner's that is SECURITY DEFINER",
        ),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::value_of;

    #[test]
    fn a_query_may_end_with_a_semicolon_or_a_comment() {
        assert!(value_of("SELECT 1; ").contains("(SELECT (SELECT 1\n) AS value)"));
        assert!(value_of("SELECT 1 -- one").contains("-- one\n) AS value"));
    }
}
