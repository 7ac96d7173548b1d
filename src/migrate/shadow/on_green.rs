//! The shadow's last place: a scratch database on green itself, once it is promoted.

use super::super::Shadow;
use super::scratch::{Scratch, refused};
use super::{ShadowError, dump, report};
use crate::migrate::ShadowReport;
use crate::plan::{Plan, SchemaWork, shadow_database};
use crate::postgres::client::{Session, SessionOptions};
use crate::postgres::failure::sqlstate;
use crate::postgres::programs::Installed;
use crate::word::{Endpoint, PortError, RunId, quote_ident, quote_literal};
use async_trait::async_trait;
use std::time::Duration;

/// How long one statement beside the trial may take; dropping a database waits for a checkpoint.
const LIMIT: Duration = Duration::from_mins(10);

/// The real `Shadow`. Connects at each call only.
#[derive(Debug)]
pub struct OnGreen {
    pub blue: Endpoint,
    pub green: Endpoint,
    pub run: RunId,
    /// For `pg_dump`. Not looked at but for a trial.
    pub installed: Installed,
}

#[async_trait]
impl Shadow for OnGreen {
    async fn judge(&self, plan: &Plan) -> Result<SchemaWork, PortError> {
        let (at, session) = self.beside().await?;
        let before = self.shared(&session).await?;
        let report = match self.report(plan, &at).await {
            Ok(report) => report,
            Err(ShadowError::Unavailable(error)) => return Err(error),
            Err(ShadowError::Migration(error)) => {
                return Err(PortError::refused("try the migrations on green")
                    .because(error)
                    .hint("mend the migration and begin a new run; in green's database nothing was migrated"));
            }
        };
        if self.shared(&session).await? != before {
            return Err(PortError::refused("take the trial on green for one")
                .because("while it lasted, roles, databases or settings of green's server changed, which all its databases share")
                .hint("if it was the migrations: name a scratch server as `shadow:`; if it was somebody else: begin a new run"));
        }
        let attempted = || PortError::refused("judge the plan by the trial on green");
        plan.judge(report).ok_or_else(|| attempted().because("the plan does not hold what it was made from"))
    }

    async fn ensure_gone(&self) -> Result<(), PortError> {
        let (_, session) = self.beside().await?;
        let name = shadow_database(&self.run);
        let attempted = format!("drop the scratch database {name}");
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_ident(&name));
        session.client().batch_execute(&sql).await.map_err(|e| refused(&attempted, &e))
    }
}

impl OnGreen {
    /// A session outside of the run's database, which may be closed, and where it is.
    async fn beside(&self) -> Result<(Endpoint, Session), PortError> {
        let options = SessionOptions::ours(format!("greenlight/{}/shadow", self.run), LIMIT, LIMIT);
        let mut last = None;
        for database in ["postgres", "template1"].into_iter().filter(|name| *name != self.green.database) {
            let at = self.green.with_database(database);
            match Session::open(&at, &options, "green").await {
                Err(error) if sqlstate(&error) == Some("3D000") => last = Some(error),
                opened => return opened.map(|session| (at, session)),
            }
        }
        Err(last.unwrap_or_else(|| PortError::refused("find a second database on green")))
    }

    async fn report(&self, plan: &Plan, at: &Endpoint) -> Result<ShadowReport, ShadowError> {
        let major = plan.basis.as_ref().map_or(0, |basis| basis.survey.blue.major());
        let dump = dump(&self.installed, &self.blue, major).await?;
        let mut scratch = Scratch::create(at, &dump, &self.run).await?;
        // What is missing on green is missing for the migrations too, and nothing is lent to them there.
        scratch.lends_roles = false;
        crate::failpoint!("trial-on-green");
        let report = report(&mut scratch, &dump, &plan.migrations, &plan.history).await;
        let dropped = scratch.drop().await;
        let report = report?;
        dropped?;
        Ok(report)
    }

    /// A digest of what all databases of the server share, but for the scratch database itself.
    async fn shared(&self, session: &Session) -> Result<String, PortError> {
        let scratch = quote_literal(&shadow_database(&self.run));
        let sql = format!(
            "SELECT md5(string_agg(what, E'\\n' ORDER BY what)) FROM ( \
               SELECT 'role ' || r::text AS what FROM pg_roles r \
               UNION ALL SELECT 'member ' || m::text FROM pg_auth_members m \
               UNION ALL SELECT 'tablespace ' || t::text FROM pg_tablespace t \
               UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots \
               UNION ALL SELECT 'origin ' || roname FROM pg_replication_origin \
               UNION ALL SELECT 'database ' || datname || coalesce(datacl::text, '') FROM pg_database WHERE datname <> {scratch} \
               UNION ALL SELECT 'setting ' || s::text FROM pg_db_role_setting s \
                 WHERE NOT EXISTS (SELECT FROM pg_database WHERE oid = setdatabase AND datname = {scratch})) AS shared"
        );
        let row = session.client().query_one(&sql, &[]).await;
        row.and_then(|row| row.try_get(0)).map_err(|e| refused("read what green's databases share", &e))
    }
}
