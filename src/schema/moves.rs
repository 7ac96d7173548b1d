use crate::word::RelationName;
use serde::{Deserialize, Serialize};

/// What names alone do not show of a migration: which table or column of the schema after it is which of the schema before.
/// Learned from the object ids in the shadow, so that a rename in any disguise is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moves {
    /// Tables that are another table under the same name: dropped and made again, or swapped.
    pub replaced: Vec<RelationName>,
    pub renamed: Vec<Renamed>,
    pub columns: Vec<MovedColumn>,
}

/// A table that goes by another name, or lies in another schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renamed {
    pub from: RelationName,
    pub to: RelationName,
}

/// A column that goes by another name, or one that is another column under the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedColumn {
    /// The table's name before.
    pub table: RelationName,
    pub from: String,
    /// The new name; `None`: dropped, and another column made under the name.
    pub to: Option<String>,
}
