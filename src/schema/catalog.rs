use crate::word::RelationName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a database's catalogue holds, in canonical text, so that two servers can be compared object by object.
/// System schemas, `greenlight` itself, what belongs to extensions, and temporary objects are left out. So are owners,
/// grants and comments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    pub tables: BTreeMap<RelationNameKey, Table>,
    pub sequences: BTreeMap<RelationNameKey, Sequence>,
    /// Views and materialized views: definition text.
    pub views: BTreeMap<RelationNameKey, View>,
    /// Functions and procedures by signature: definition text.
    pub functions: BTreeMap<String, String>,
    /// Enums, domains, composites and ranges by name: definition text.
    pub types: BTreeMap<String, String>,
    /// Versions by name.
    pub extensions: BTreeMap<String, String>,
    /// Row security policies, rules and statistics objects by kind and name: definition text.
    pub others: BTreeMap<String, String>,
    pub schemas: Vec<String>,
}

/// `schema.name`, quoted where needed: a map key that JSON can hold.
pub type RelationNameKey = String;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub name: RelationName,
    /// In order of attribute number, dropped ones left out.
    pub columns: Vec<Column>,
    pub constraints: Vec<Constraint>,
    pub indexes: Vec<Index>,
    pub triggers: Vec<Trigger>,
    pub identity: ReplicaIdentity,
    /// Columns of the primary key, in order; empty when there is none.
    pub primary_key: Vec<String>,
    pub persistence: Persistence,
    pub partition: Partition,
    /// The table that this one inherits from otherwise than as a partition.
    pub inherits: Vec<RelationName>,
    pub row_security: bool,
    pub foreign: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// `format_type`'s text.
    pub type_name: String,
    /// The type is one of PostgreSQL's own.
    pub builtin_type: bool,
    pub not_null: bool,
    pub default: Option<String>,
    /// `''`, `a` (always) or `d` (by default), as in `attidentity`.
    pub identity: String,
    /// The expression of a generated column, and whether it is `STORED` or `VIRTUAL`.
    pub generated: Option<String>,
    pub collation: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraint {
    pub name: String,
    /// `p`, `u`, `f`, `c`, `x` as in `contype`. NOT NULL is the column's, even where the server has a constraint for it.
    pub kind: String,
    /// `pg_get_constraintdef`.
    pub definition: String,
    pub validated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    pub name: String,
    /// `pg_get_indexdef`.
    pub definition: String,
    pub unique: bool,
    pub valid: bool,
    /// Fit to be a replica identity: unique, not partial, not deferrable, only NOT NULL columns, no expressions.
    pub identity_columns: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    pub name: String,
    /// `pg_get_triggerdef`.
    pub definition: String,
    /// `O`, `D`, `R` or `A` as in `tgenabled`.
    pub enabled: String,
    /// Fires for each row; otherwise for each statement, and then never for rows that replication applies.
    pub row_level: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaIdentity {
    /// The primary key, if there is one.
    Default,
    Index(String),
    Full,
    /// None, or an index that has been dropped since.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Persistence {
    Permanent,
    Unlogged,
    Temporary,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Partition {
    None,
    /// Partitioned by this key (`pg_get_partkeydef`); a root unless it is a partition too.
    Root {
        key: String,
    },
    Of {
        parent: RelationName,
        root: RelationName,
        bound: String,
        key: Option<String>,
    },
}

impl Table {
    /// Part of a partitioned table, whose rows are published as the root's.
    pub fn root(&self) -> Option<&RelationName> {
        match &self.partition {
            Partition::Of { root, .. } => Some(root),
            Partition::None | Partition::Root { .. } => None,
        }
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    pub name: RelationName,
    pub type_name: String,
    pub increment: i64,
    pub minimum: i64,
    pub maximum: i64,
    pub cycle: bool,
    /// The column that it serves, as `schema.table.column`.
    pub owned_by: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    pub name: RelationName,
    pub definition: String,
    pub materialized: bool,
    /// A materialized view that has data.
    pub populated: bool,
    /// A materialized view with a unique index over all rows, so that it can be refreshed concurrently.
    pub unique_index: bool,
}
