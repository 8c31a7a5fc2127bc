//! Faults: what a deploy, a crash, a hang or a full disk may do to the server, and what it must not.
//!
//! Takes a table of scenarios, one family a file, each a sentence that must hold. Every one is played against the real
//! binary with a crowd of raw clients at work, who account for every request; `make faults` prints the table. What a
//! handler does wrong in one answer is in handlers.rs and needs no crowd.

pub mod crashes;
mod deploys;
pub mod fault;
mod figures;
mod handlers;
mod hangs;
mod masters;
mod reloads;
mod resources;
mod row;
mod scaling;
pub mod scene;
mod site;
mod stops;
mod watch;

#[test]
fn the_table_names_at_least_forty_faults_and_none_twice() {
    let families = [
        crashes::NAMES,
        deploys::NAMES,
        hangs::NAMES,
        masters::NAMES,
        reloads::NAMES,
        resources::NAMES,
        scaling::NAMES,
        stops::NAMES,
    ];
    let all: Vec<&str> = families.concat();
    let different: std::collections::BTreeSet<&str> = all.iter().copied().collect();
    assert_eq!(different.len(), all.len(), "no name stands twice");
    assert!(all.len() >= 40, "{} scenarios", all.len());
}
