//! The migrated server's schema is the one that the shadow came to. On blue, which serves, somebody may have made objects of their
//! own meanwhile: these are nobody's mistake.

use super::{Difference, Findings, Progress, Validator};
use crate::postgres::Server;
use crate::schema::Fingerprint;
use crate::word::PortError;
use async_trait::async_trait;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Schema {
    /// Its name for people.
    pub(super) of: &'static str,
    pub(super) server: Arc<dyn Server>,
    pub(super) planned: Option<Fingerprint>,
    /// Blue's schema before, where blue itself is looked at.
    pub(super) before: Option<Fingerprint>,
}

#[async_trait]
impl Validator for Schema {
    fn name(&self) -> &'static str {
        "schema"
    }

    async fn check(&self, _: Progress<'_>) -> Result<Findings, PortError> {
        let Some(planned) = &self.planned else { return Ok(Findings::default()) };
        let mut found = self.server.schema_fingerprint().await?;
        if let Some(before) = &self.before {
            found = found.only(|object| planned.has(object) || before.has(object));
        }
        let what = format!("{}'s is not the one that the migrations made in the shadow: {}", self.of, planned.changes(&found));
        let differences =
            if found == *planned { Vec::new() } else { vec![Difference { object: "schema".to_owned(), key: None, what }] };
        Ok(Findings { differences, ..Findings::default() })
    }
}
