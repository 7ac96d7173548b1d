//! Does every flowing table really flow? A table outside the subscription loses its rows without an error anywhere, and with
//! a lag of 0: publication, subscription and plan are compared by name, and the subscription knows tables by object id, so a
//! table that was swapped for another is found too.

use super::{Difference, Findings, Progress, Validator};
use crate::postgres::{PublishedTable, Server, published_forward};
use crate::schema::TableFlow;
use crate::word::PortError;
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) const NAME: &str = "membership";

#[derive(Debug)]
pub(super) struct Membership {
    pub(super) blue: Arc<dyn Server>,
    pub(super) green: Arc<dyn Server>,
    /// The name of publication and subscription.
    pub(super) flow: String,
    pub(super) tables: Vec<TableFlow>,
}

#[async_trait]
impl Validator for Membership {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn check(&self, _: Progress<'_>) -> Result<Findings, PortError> {
        let wanted = published_forward(&self.tables);
        let published = self.blue.publication(&self.flow).await?.unwrap_or_default();
        let subscribed = self.green.subscription(&self.flow).await?.map(|subscription| subscription.ready).unwrap_or_default();
        let mut differences = Vec::new();
        for table in &wanted {
            let mut differs =
                |what: &str| differences.push(Difference { object: table.table.to_string(), key: None, what: what.to_owned() });
            match published.iter().find(|found| found.table == table.table) {
                None => differs("blue does not publish it"),
                Some(found) if columns(found) != columns(table) => differs("blue publishes other columns of it than planned"),
                Some(_) => {}
            }
            if !subscribed.contains(&table.table) {
                differs("green's subscription does not hold it, or not ready: its rows would be lost in silence");
            }
        }
        Ok(Findings { differences, tables: wanted.len() as u64, rows: 0 })
    }
}

fn columns(table: &PublishedTable) -> Option<BTreeSet<&String>> {
    table.columns.as_ref().map(|columns| columns.iter().collect())
}
