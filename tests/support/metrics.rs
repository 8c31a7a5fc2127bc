//! Prometheus's text format 0.0.4, read strictly.
//!
//! Takes the text of `/metrics`; gives every series with its value and every family with its type, or fails the test with what
//! the format does not allow: a series without HELP and TYPE, one that stands twice, a family in two pieces, a counter not
//! named `_total`, a histogram whose buckets do not add up.

use std::collections::BTreeMap;

/// One page, read.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Value by series, labels included: `name{label="text"}`.
    pub series: BTreeMap<String, f64>,
    /// `counter`, `gauge` or `histogram` by family.
    pub kinds: BTreeMap<String, String>,
}

impl Metrics {
    /// Reads a page; fails the test on anything that is not as it should be.
    pub fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line is not ended");
        let (mut series, mut kinds) = (BTreeMap::new(), BTreeMap::new());
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let rest = line
                .strip_prefix("# HELP ")
                .unwrap_or_else(|| panic!("no HELP: {line}"));
            let (family, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no text: {line}"));
            assert!(is_name(family) && !help.trim().is_empty(), "{line}");
            let line = lines.next().unwrap_or_default();
            let kind = line.strip_prefix(&format!("# TYPE {family} "));
            let kind = kind.unwrap_or_else(|| panic!("no TYPE of {family}: {line}"));
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(
                kind == "counter",
                family.ends_with("_total"),
                "only counters end in _total, and all of them: {family}"
            );
            let before = kinds.insert(family.to_owned(), kind.to_owned());
            assert!(before.is_none(), "{family} stands in two pieces");
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                let (key, value) = sample(line, family, kind);
                assert!(series.insert(key, value).is_none(), "this series stands twice: {line}");
            }
        }
        let metrics = Self { series, kinds };
        let histograms = metrics.kinds.iter().filter(|(_, kind)| *kind == "histogram");
        histograms.for_each(|(family, _)| metrics.check_histogram(family));
        metrics
    }

    /// The value of a series, which must be there.
    pub fn value(&self, key: &str) -> f64 {
        *self.series.get(key).unwrap_or_else(|| panic!("no {key} in {self:#?}"))
    }

    /// The sum over all series of a family.
    pub fn sum(&self, family: &str) -> f64 {
        let of_it = |key: &&String| key.split('{').next() == Some(family);
        self.series.keys().filter(of_it).map(|key| self.series[key]).sum()
    }

    /// Fails the test when something that is counted is less than it was `before`, or has gone.
    pub fn check_grown_since(&self, before: &Metrics) {
        for (key, was) in &before.series {
            let family = key.split('{').next().unwrap_or_default();
            let counted = family.ends_with("_total") || family.starts_with("appserver_request_duration_seconds");
            if counted {
                let now = self.value(key);
                assert!(now >= *was, "{key} went back from {was} to {now}");
            }
        }
    }

    fn check_histogram(&self, family: &str) {
        let prefix = format!("{family}_bucket{{le=\"");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (key, count) in &self.series {
            if let Some(bound) = key.strip_prefix(&prefix) {
                let bound = bound.trim_end_matches("\"}").replace("+Inf", "inf");
                buckets.push((bound.parse().unwrap_or_else(|_| panic!("{key}")), *count));
            }
        }
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        assert!(
            buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1),
            "not cumulative: {buckets:?}"
        );
        let last = buckets.last().expect("a histogram has buckets");
        assert_eq!(last.0, f64::INFINITY, "{family} has no bucket +Inf");
        assert_eq!(last.1, self.value(&format!("{family}_count")));
        assert!(self.value(&format!("{family}_sum")) >= 0.0);
    }
}

/// `name{label="text",…} value`, of this family.
fn sample(line: &str, family: &str, kind: &str) -> (String, f64) {
    let (key, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let (name, labels) = match key.split_once('{') {
        None => (key, ""),
        Some((name, labels)) => {
            let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("not closed: {line}"));
            (name, labels)
        }
    };
    let suffixes: &[&str] = if kind == "histogram" {
        &["_bucket", "_sum", "_count"]
    } else {
        &[""]
    };
    assert!(
        suffixes.iter().any(|suffix| name == format!("{family}{suffix}")),
        "stands under {family}: {line}"
    );
    check_labels(labels, line);
    let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
    assert!(value >= 0.0, "{line}");
    (key.to_owned(), value)
}

fn check_labels(mut labels: &str, line: &str) {
    while !labels.is_empty() {
        let (name, rest) = labels.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
        assert!(is_name(name) && !name.contains(':'), "{line}");
        let mut escaped = false;
        let end = rest.find(|letter| {
            let ends = letter == '"' && !escaped;
            assert!(!escaped || ['\\', '"', 'n'].contains(&letter), "no such escape: {line}");
            escaped = letter == '\\' && !escaped;
            ends
        });
        labels = &rest[end.unwrap_or_else(|| panic!("label not closed: {line}")) + 1..];
        labels = match labels.strip_prefix(',') {
            Some(more) => more,
            None => {
                assert!(labels.is_empty(), "{line}");
                labels
            }
        };
    }
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|letter: char| letter.is_ascii_digit())
        && !name.is_empty()
        && name
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "_:".contains(letter))
}

#[test]
fn a_page_as_the_format_wants_it_is_read_and_others_are_not() {
    let good = "# HELP a_total x y\n# TYPE a_total counter\na_total{b=\"c\\\"d\",e=\"\"} 3\na_total 4\n";
    let read = Metrics::parse(good);
    assert_eq!((read.value("a_total"), read.sum("a_total")), (4.0, 7.0));
    for bad in [
        "a_total 1\n",
        "# HELP a_total x\n# TYPE a_total counter\na_total 1\na_total 1\n",
        "# HELP a_total x\n# TYPE a_total gauge\na_total 1\n",
        "# HELP a x\n# TYPE a gauge\na{b=\"c} 1\n",
        "# HELP a x\n# TYPE a gauge\nb 1\n",
        "# HELP a x\n# TYPE a gauge\na 1",
    ] {
        assert!(std::panic::catch_unwind(|| Metrics::parse(bad)).is_err(), "{bad}");
    }
}
