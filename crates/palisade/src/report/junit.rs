//! The report as JUnit, for the many programs that read it. Each finding is a test
//! case: failed if it makes the verdict a regression, in error if it could not be
//! measured or decided.

use std::time::Duration;

use quick_junit::{
    NonSuccessKind, Report as Junit, SerializeError, TestCase, TestCaseStatus, TestSuite,
};

use crate::finding::Severity;
use crate::record::ReportDocument;

/// The whole report.
pub fn junit(report: &ReportDocument) -> Result<String, SerializeError> {
    let mut suite = TestSuite::new("cargo palisade check");
    for finding in &report.findings {
        let status = |kind| {
            let mut status = TestCaseStatus::non_success(kind);
            status.set_message(format!("{}: {}", finding.reason, finding.meaning));
            status.set_type(finding.state.clone());
            if let Some(output) = &finding.output {
                status.set_description(output.clone());
            }
            status
        };
        let status = match finding.severity {
            Severity::Regression => status(NonSuccessKind::Failure),
            Severity::Unmeasured | Severity::Undecided => status(NonSuccessKind::Error),
            Severity::Note => TestCaseStatus::success(),
        };
        let mut case = TestCase::new(finding.name.clone(), status);
        case.set_classname(finding.state.clone());
        suite.add_test_case(case);
    }
    // A report without any case is read as "nothing ran" by many programs.
    let mut verdict = TestCase::new("verdict", TestCaseStatus::success());
    verdict.set_classname("palisade");
    verdict.set_system_out(format!("{}: {}", report.verdict_words(), report.sentence()));
    verdict.set_time(Duration::from_secs_f64(report.seconds));
    suite.add_test_case(verdict);
    let mut junit = Junit::new("cargo palisade");
    junit.add_test_suite(suite);
    junit.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn regressions_are_failures_and_notes_are_not() {
        let text = junit(&example()).expect("serialises");
        let read = Junit::deserialize_from_str(&text).expect("is JUnit");
        assert_eq!((read.tests, read.failures, read.errors), (3, 1, 0));
        let case = &read.test_suites[0].test_cases[0];
        assert_eq!(case.name.as_str(), "a/lib/tests::adds");
    }
}
