//! The report as SARIF 2.1.0, by which code hosts annotate files.

use serde_json::{Value, json};

use crate::finding::{FindingKind, Severity};
use crate::record::{FindingDocument, ReportDocument};
use crate::test_id::TestId;

/// The whole report. What a test found is shown at the riskiest changed file of its
/// package, or of the change. Code hosts know paths from the repository's root, in which the
/// workspace is the folder `dir`.
pub fn sarif(report: &ReportDocument, dir: &str) -> Value {
    let mut rules: Vec<&str> = report.findings.iter().map(|f| f.state.as_str()).collect();
    rules.sort_unstable();
    rules.dedup();
    let rules: Vec<Value> = rules
        .into_iter()
        .map(|state| json!({"id": state}))
        .collect();
    let results: Vec<Value> = report
        .findings
        .iter()
        .map(|f| result(report, f, dir))
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "cargo palisade",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "results": results,
        }],
    })
}

fn result(report: &ReportDocument, finding: &FindingDocument, dir: &str) -> Value {
    let level = match finding.severity {
        Severity::Regression => "error",
        Severity::Unmeasured | Severity::Undecided => "warning",
        Severity::Note => "note",
    };
    let text = format!(
        "{}: {}. {}. Next: {}",
        finding.name, finding.reason, finding.meaning, finding.next
    );
    let mut result = json!({
        "ruleId": finding.state,
        "level": level,
        "message": {"text": text},
        // The same finding of the next run is the same alert.
        "partialFingerprints": {"finding/v1": format!("{} {}", finding.state, finding.name)},
    });
    if let Some((path, line)) = place(report, finding, dir) {
        result["locations"] = json!([{"physicalLocation": {
            "artifactLocation": {"uri": path},
            "region": {"startLine": line},
        }}]);
    }
    result
}

/// The file that a finding is shown at, and the line.
fn place(report: &ReportDocument, finding: &FindingDocument, dir: &str) -> Option<(String, usize)> {
    if let Some(place) = &finding.place {
        let path = match dir {
            "" => place.path.clone(),
            dir => format!("{dir}/{}", place.path),
        };
        return Some((path, place.line));
    }
    if finding.kind == FindingKind::Claim {
        return None;
    }
    let test: Option<TestId> = finding.name.parse().ok();
    let files = &report.risk.files;
    let of_package = test.and_then(|test| {
        let mut files = files.iter();
        files.find(|file| file.package.as_deref() == Some(&test.package))
    });
    let file = of_package.or(files.first())?;
    Some((file.path.clone(), 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Place;
    use crate::report::tests::example;

    #[test]
    fn a_regression_is_an_error_at_the_changed_file() {
        let sarif = sarif(&example(), "");
        let results = &sarif["runs"][0]["results"];
        assert_eq!(results[0]["level"], "error");
        assert_eq!(results[1]["level"], "note");
        let place = &results[0]["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "a/src/lib.rs");
        assert_eq!(
            sarif["runs"][0]["tool"]["driver"]["rules"][0]["id"],
            "newly_failing"
        );
    }

    #[test]
    fn places_are_told_from_the_root_of_the_repository() {
        let mut report = example();
        report.findings[0].place = Some(Place {
            path: "a/src/lib.rs".to_owned(),
            line: 12,
        });
        let sarif = sarif(&report, "rust");
        let place = &sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "rust/a/src/lib.rs");
        assert_eq!(place["region"]["startLine"], 12);
    }
}
