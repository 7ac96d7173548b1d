//! The playbook's own assertions, on green or on a restored server: a query's one value, as text.

use super::{Difference, Findings, Progress, Validator};
use crate::plan::AssertionSpec;
use crate::postgres::client::{Session, SessionOptions};
use crate::postgres::failure::{self, Effect};
use crate::word::{Endpoint, PortError};
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
        let answer = session.client().simple_query(&assertion.query).await;
        let answer = answer.map_err(|error| failure::of_call(attempted(), Effect::Read, &error))?;
        let mut rows = answer.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        match (rows.next(), rows.next()) {
            (Some(row), None) if row.len() == 1 => Ok(row.get(0).map(str::to_owned)),
            _ => Err(PortError::refused(attempted())
                .because("its query must give one row of one value")
                .hint("mend the assertion's query in the playbook")),
        }
    }
}
