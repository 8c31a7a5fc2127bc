//! What the master alone knows of its generations, as it is told on the house page.
//!
//! Takes what the master says, gives it as JSON and back. What is counted or happens in workers is no part of it.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// What the master alone knows, as it lies in the house page (JSON).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// Of the master's binary.
    pub version: String,
    /// Where the server listens, as in the log.
    pub listeners: Vec<String>,
    /// The generations that exist: the one that serves first.
    pub generations: Vec<GenerationFacts>,
    /// How the last reload, rollback or upgrade ended.
    pub last: Option<Outcome>,
}

impl Facts {
    /// As JSON of at most `room` bytes: when there are so many modules that it would be longer, the last ones are left out.
    pub fn to_json(&self, room: usize) -> Vec<u8> {
        let mut facts = self.clone();
        loop {
            // Texts and numbers alone cannot fail to be written.
            let json = serde_json::to_vec(&facts).unwrap_or_default();
            if json.len() <= room {
                return json;
            }
            let longest = facts.generations.iter_mut().max_by_key(|one| one.modules.len());
            if longest.is_none_or(|one| one.modules.pop().is_none()) {
                return Vec::new();
            }
        }
    }
}

/// One generation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GenerationFacts {
    /// Its number.
    pub number: u64,
    /// `serving`, `starting` (a reload to it is under way) or `previous` (what a rollback returns to).
    pub role: String,
    /// Seconds since 1970 when its modules were read.
    pub loaded_at: u64,
    /// Its modules, one a mount.
    pub modules: Vec<ModuleFacts>,
}

/// One module under its mount.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ModuleFacts {
    /// The URL prefix; empty for the root.
    pub mount: String,
    /// The file it was read from.
    pub path: String,
    /// Its build id, in hex; empty when it has none.
    pub build_id: String,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
}

/// How a change of generation or binary ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// `reload`, `rollback` or `upgrade`.
    pub verb: String,
    /// `done` or `refused`.
    pub outcome: String,
    /// Why it was refused.
    pub reason: Option<String>,
    /// The generation that serves since.
    pub generation: u64,
    /// Seconds since 1970.
    pub at: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_that_are_too_long_lose_modules_and_stay_json() {
        let module = ModuleFacts {
            mount: "/a".repeat(50),
            ..ModuleFacts::default()
        };
        let mut facts = Facts::default();
        for number in [2, 1] {
            facts.generations.push(GenerationFacts {
                number,
                modules: vec![module.clone(); 50],
                ..GenerationFacts::default()
            });
        }
        let json = facts.to_json(4000);
        assert!(json.len() <= 4000);
        let read: Facts = serde_json::from_slice(&json).unwrap();
        assert_eq!(read.generations.len(), 2, "generations stay");
        assert!(
            read.generations.iter().all(|one| one.modules.len() > 10),
            "both keep some"
        );
        assert_eq!(serde_json::from_slice::<Facts>(&facts.to_json(1 << 20)).unwrap(), facts);
    }
}
