//! What is said to such caches by name, drawn at random: dictionaries, and what is none.
//!
//! Takes random numbers; gives the values of CDN-Cache-Control and what they mean (RFC 9213 section 2.1).

use super::draw::Said;
use crate::cache::tests::Random;

const FLAGS: &[&str] = &["no-store", "no-cache", "private", "public", "must-revalidate"];
const NUMBERS: &[&str] = &[
    "max-age",
    "max-age",
    "s-maxage",
    "stale-while-revalidate",
    "stale-if-error",
];
const UNKNOWN: &[&str] = &[
    "x",
    "x=\"no-store, max-age=0\"",
    "x=(a \"b\");no-store",
    "x=:aGk=:",
    "no-store=?0",
];
const FAULTS: &[&str] = &[
    "",
    "Max-Age=5",
    "&&&",
    "max-age=\"5\"",
    "max-age",
    "x=\"a",
    "max-age= 5",
    "x=?2",
];

/// The values, and what they mean: nothing at all when something is written wrong.
pub(super) fn targeted(random: &mut Random) -> (Vec<String>, Option<Said>) {
    let mut said = Said::default();
    let mut members = Vec::new();
    for _ in 0..=random.below(3) {
        let suffix = random.of(&["", "", ";x", ";x=\"a, private\""]);
        match random.below(8) {
            0 => members.push(random.of(UNKNOWN).to_owned()),
            1 | 2 => {
                let name = random.of(FLAGS);
                said.0.insert(name, None);
                members.push(name.to_owned() + random.of(&["", "=?1", "=\"x\""]) + suffix);
            }
            _ => {
                // Of several the last one counts.
                let (name, number) = (random.of(NUMBERS), random.below(90));
                said.0.insert(name, Some(number));
                members.push(format!("{name}={number}{suffix}"));
            }
        }
    }
    // A false flag takes back a true one of its name before it.
    let last = |name: &str| members.iter().rev().find(|member| member.starts_with(name)).cloned();
    if last("no-store").is_some_and(|member| member == "no-store=?0") {
        said.0.remove("no-store");
    }
    let is_wrong = random.one_in(5);
    if is_wrong {
        let place = random.below(members.len() as u64 + 1) as usize;
        members.insert(place, random.of(FAULTS).to_owned());
        // Only the last of a name is looked at, and an empty one between two fields is no less wrong.
        if place < members.len() - 1 && members[place].starts_with("max-age") && !members[place].contains(' ') {
            members[place] = "&".into();
        }
    }
    let separator = random.of(&[",", ", ", " ,\t"]);
    let fields = if random.one_in(4) {
        members
    } else {
        vec![members.join(separator)]
    };
    (fields, (!is_wrong).then_some(said))
}
