//! One line of the table that `make faults` prints.
//!
//! Takes a scenario's name and what its clients counted; appends the line to the file that FAULTS_TABLE names, if any,
//! whether the scenario passed or not.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use crate::support::storm::Tally;

/// The line, written when it is dropped.
pub struct Row {
    name: String,
    counts: String,
    verdict: &'static str,
}

impl Row {
    /// Of this scenario.
    pub fn of(name: &str) -> Self {
        Row {
            name: name.replace('_', " "),
            counts: "-\t-\t-\t-\t-\t-".to_owned(),
            verdict: "FAILED",
        }
    }

    /// What was counted and how long it took.
    pub fn fill(&mut self, tally: &Tally, time: Duration) {
        self.counts = format!(
            "{}\t{}\t{}\t{}\t{}\t{:.2}s",
            tally.answered,
            tally.refused,
            tally.honest,
            tally.raced,
            tally.lost.len(),
            time.as_secs_f64()
        );
    }

    /// A measurement instead of counts.
    pub fn measure(&mut self, text: &str) {
        text.clone_into(&mut self.counts);
    }

    /// It held.
    pub fn pass(mut self) {
        self.verdict = "ok";
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        let Some(path) = std::env::var_os("FAULTS_TABLE") else {
            return;
        };
        let line = format!("{}\t{}\t{}\n", self.name, self.counts, self.verdict);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        // One write, so that scenarios that end together do not mix their lines.
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            eprintln!("{}: {error}", path.display());
        }
    }
}
