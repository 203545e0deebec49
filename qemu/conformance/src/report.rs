//! The outcomes: lines for people, JSON and JUnit for machines.

use std::fmt;
use std::time::Duration;

use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
use serde::Serialize;

use super::check::Stop;
use super::checklist::{name, Level, Line};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    Pass,
    Fail { expected: String, seen: String },
    NotRun { reason: String },
}

impl From<Stop> for Verdict {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Fail { expected, seen } => Self::Fail { expected, seen },
            Stop::NotRun { reason } => Self::NotRun { reason },
        }
    }
}

/// The outcome of a line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// `P-007`.
    pub id: String,
    pub level: Level,
    pub title: &'static str,
    #[serde(flatten)]
    pub verdict: Verdict,
    pub seconds: f64,
    /// On a fail, the last log records and console lines of the VMs that it used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

impl Outcome {
    pub(super) fn new(line: Line, verdict: Verdict, took: Duration, log: Vec<String>) -> Self {
        Self {
            id: name(line.id),
            level: line.level,
            title: line.title,
            verdict,
            seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
            log,
        }
    }
}

/// One line of text, whatever was seen.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = &self.id;
        match &self.verdict {
            Verdict::Pass => write!(f, "{id} pass"),
            Verdict::NotRun { reason } => write!(f, "{id} not-run {reason}"),
            Verdict::Fail { expected, seen } => {
                let (expected, seen) = (flat(expected), flat(seen));
                write!(f, "{id} fail expected {expected}, seen {seen}")
            }
        }
    }
}

fn flat(text: &str) -> String {
    text.trim().replace('\n', "\\n")
}

/// How many lines of one weight had each verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Counts {
    pub pass: usize,
    pub fail: usize,
    pub not_run: usize,
}

/// All outcomes, in the order of the checklist.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub outcomes: Vec<Outcome>,
    pub took: Duration,
}

impl Report {
    /// Of one weight, or of both.
    pub fn counts(&self, level: Option<Level>) -> Counts {
        let mut counts = Counts::default();
        for outcome in &self.outcomes {
            if level.is_none_or(|level| level == outcome.level) {
                match outcome.verdict {
                    Verdict::Pass => counts.pass += 1,
                    Verdict::Fail { .. } => counts.fail += 1,
                    Verdict::NotRun { .. } => counts.not_run += 1,
                }
            }
        }
        counts
    }

    pub fn fails(&self) -> impl Iterator<Item = &Outcome> {
        let failed = |o: &&Outcome| matches!(o.verdict, Verdict::Fail { .. });
        self.outcomes.iter().filter(failed)
    }

    /// The counts as a table, and the time.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:8}{:>6}{:>6}{:>9}{:>7}\n",
            "", "pass", "fail", "not-run", "all"
        );
        let rows = [
            (Level::Must.name(), Some(Level::Must)),
            (Level::Should.name(), Some(Level::Should)),
            ("both", None),
        ];
        for (title, level) in rows {
            let Counts {
                pass,
                fail,
                not_run,
            } = self.counts(level);
            let all = pass + fail + not_run;
            text.push_str(&format!(
                "{title:8}{pass:>6}{fail:>6}{not_run:>9}{all:>7}\n"
            ));
        }
        text.push_str(&format!("in {:.0} s\n", self.took.as_secs_f64()));
        text
    }

    /// The report as a JSON document; `about` says what was tested.
    pub fn json(&self, about: &serde_json::Value) -> serde_json::Value {
        serde_json::json!({
            "about": about,
            "seconds": self.took.as_secs_f64().round(),
            "counts": {
                "MUST": self.counts(Some(Level::Must)),
                "SHOULD": self.counts(Some(Level::Should)),
            },
            "lines": self.outcomes,
        })
    }

    /// The report as JUnit, one test case a line.
    ///
    /// # Errors
    /// Those of the XML writer.
    pub fn junit(&self) -> Result<String, quick_junit::SerializeError> {
        let mut suite = TestSuite::new("conformance");
        for outcome in &self.outcomes {
            let status = match &outcome.verdict {
                Verdict::Pass => TestCaseStatus::success(),
                Verdict::NotRun { reason } => {
                    let mut status = TestCaseStatus::skipped();
                    status.set_message(reason.as_str());
                    status
                }
                Verdict::Fail { expected, seen } => {
                    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                    status.set_message(format!("expected {expected}, seen {seen}"));
                    status
                }
            };
            let mut case = TestCase::new(format!("{} {}", outcome.id, outcome.title), status);
            case.set_classname(format!("conformance.{}", outcome.level.name()));
            case.set_time(Duration::from_secs_f64(outcome.seconds));
            if !outcome.log.is_empty() {
                case.set_system_out(outcome.log.join("\n"));
            }
            suite.add_test_case(case);
        }
        let mut report = quick_junit::Report::new("uvm conformance");
        report.set_time(self.took);
        report.add_test_suite(suite);
        report.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let line = |id, level| Line {
            id,
            level,
            title: "a line",
            hyper_v: false,
        };
        let seconds = Duration::from_millis(1500);
        let fail = Verdict::Fail {
            expected: "a <b>".into(),
            seen: "two\nlines".into(),
        };
        let reason = "no \u{1}device".to_owned();
        let log = vec!["[info] last words".to_owned()];
        Report {
            outcomes: vec![
                Outcome::new(line(1, Level::Must), Verdict::Pass, seconds, vec![]),
                Outcome::new(line(2, Level::Must), fail, seconds, log),
                Outcome::new(
                    line(3, Level::Should),
                    Verdict::NotRun { reason },
                    Duration::ZERO,
                    vec![],
                ),
            ],
            took: Duration::from_secs(3),
        }
    }

    #[test]
    fn each_outcome_is_one_line_of_text() {
        let text: Vec<String> = report().outcomes.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "P-001 pass",
                "P-002 fail expected a <b>, seen two\\nlines",
                "P-003 not-run no \u{1}device"
            ]
        );
        assert_eq!(
            report().table(),
            "          pass  fail  not-run    all\n\
             MUST         1     1        0      2\n\
             SHOULD       0     0        1      1\n\
             both         1     1        1      3\n\
             in 3 s\n"
        );
    }

    #[test]
    fn machines_get_the_log_of_a_fail() {
        let json = report().json(&serde_json::json!({"initrd": "i"}));
        assert_eq!(json["lines"][1]["verdict"], "fail");
        assert_eq!(json["lines"][1]["log"][0], "[info] last words");
        assert_eq!(json["counts"]["MUST"]["fail"], 1);
        assert_eq!(json["counts"]["SHOULD"]["not-run"], 1);
        let junit = report().junit().unwrap();
        for part in [
            "tests=\"3\"",
            "failures=\"1\"",
            "<skipped",
            "expected a &lt;b&gt;, seen two",
            "[info] last words",
        ] {
            assert!(junit.contains(part), "{part} is not in\n{junit}");
        }
    }
}
