//! Names that a later version gives a meaning.
//!
//! Takes a table and a key; tells whether they are kept free. They are refused by name, so that nobody believes they work.
#![forbid(unsafe_code)]

/// Keys of tables that exist already.
pub const KEYS: &[(&str, &str)] = &[("", "preload"), ("limits", "queue-age"), ("reload", "canary")];

/// Whole tables.
pub const TABLES: &[&str] = &["scaling", "quarantine"];

/// Whether the key, or its whole table, is reserved.
pub fn is_reserved(table: &str, key: &str) -> bool {
    KEYS.contains(&(table, key)) || TABLES.contains(&table)
}
