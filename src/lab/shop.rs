//! A shop-like database, and migrations for it.

use super::session;
use crate::word::{Endpoint, PortError};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Name and text of each migration file: it adds and fills a column, changes a type with a rewrite, drops columns, adds a
/// table and an index.
pub const MIGRATIONS: [(&str, &str); 8] = [
    ("20260105090000_search_name.up.sql", include_str!("sql/migrations/20260105090000_search_name.up.sql")),
    ("20260105090000_search_name.down.sql", include_str!("sql/migrations/20260105090000_search_name.down.sql")),
    ("20260105091500_big_amounts.up.sql", include_str!("sql/migrations/20260105091500_big_amounts.up.sql")),
    ("20260105091500_big_amounts.down.sql", include_str!("sql/migrations/20260105091500_big_amounts.down.sql")),
    ("20260105093000_drop_unused.up.sql", include_str!("sql/migrations/20260105093000_drop_unused.up.sql")),
    ("20260105093000_drop_unused.down.sql", include_str!("sql/migrations/20260105093000_drop_unused.down.sql")),
    ("20260105094500_wishlists.up.sql", include_str!("sql/migrations/20260105094500_wishlists.up.sql")),
    ("20260105094500_wishlists.down.sql", include_str!("sql/migrations/20260105094500_wishlists.down.sql")),
];

/// Makes the tables and fills them in one transaction. `scale` 1 is about 380,000 rows. The role `shop_app` must exist.
pub async fn load(database: &Endpoint, scale: f64) -> Result<(), PortError> {
    let tables = include_str!("sql/tables.sql");
    let data = include_str!("sql/data.sql");
    let keys = include_str!("sql/keys.sql");
    // A transaction for the rows alone: their settings must not hold for the keys, which look at what was loaded.
    session::ask(database, &format!("{tables}; SET lab.scale = '{scale}'; BEGIN; {data}; COMMIT; {keys}; ANALYZE; CHECKPOINT"))
        .await
        .map(drop)
}

/// Writes the migrations into a folder, which is made if it is absent.
pub fn write_migrations(folder: &Path) -> Result<Vec<PathBuf>, PortError> {
    let error = |path: &Path, e| PortError::refused(format!("write `{}`", path.display())).because(e);
    fs::create_dir_all(folder).map_err(|e| error(folder, e))?;
    let write = |(name, text): (&str, &str)| {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|e| error(&path, e)).map(|()| path)
    };
    MIGRATIONS.into_iter().map(write).collect()
}
