//! What the tests stand on: the real server, real clients, and waiting by condition.
//!
//! Each file holds one actor of a test. Nothing here asserts a behaviour of the server; that is the tests' own work.

pub mod admin;
pub mod builder;
pub mod client;
pub mod crowd;
pub mod innocent;
pub mod json;
pub mod manager;
pub mod memory_group;
pub mod metrics;
pub mod modules;
pub mod neighbour;
pub mod nginx;
pub mod process;
pub mod queue;
pub mod reader;
pub mod server;
pub mod ship;
pub mod source;
pub mod storm;
pub mod verbs;
pub mod wait;
