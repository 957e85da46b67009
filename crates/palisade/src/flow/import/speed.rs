//! Benchmarks that other programs measured.

use std::path::Path;

use serde::Deserialize;

use crate::host::measure::read::criterion_samples;
use crate::speed::Measure;
use crate::verdict::ImportedBenchmark;

/// What lies below a folder of Criterion.
pub(super) fn criterion(folder: &Path) -> Vec<ImportedBenchmark> {
    criterion_samples(folder)
        .into_iter()
        .filter_map(|(name, values)| ImportedBenchmark::of(&name, Measure::Time, values))
        .collect()
}

/// What `hyperfine --export-json` wrote: seconds.
pub(super) fn hyperfine(text: &str) -> Result<Vec<ImportedBenchmark>, String> {
    #[derive(Deserialize)]
    struct Export {
        results: Vec<Row>,
    }
    #[derive(Deserialize)]
    struct Row {
        command: String,
        times: Vec<f64>,
    }
    let export: Export = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let row = |row: Row| {
        let times = row.times.iter().map(|seconds| seconds * 1e9).collect();
        ImportedBenchmark::of(&row.command, Measure::Time, times)
    };
    Ok(export.results.into_iter().filter_map(row).collect())
}

/// What Bencher calls a metric: one value, with bounds if it has them. Measures that mean
/// nothing here are told.
pub(super) fn bencher(text: &str) -> Result<(Vec<ImportedBenchmark>, Vec<String>), String> {
    #[derive(Deserialize)]
    struct Metric {
        value: f64,
        lower_value: Option<f64>,
        upper_value: Option<f64>,
    }
    type Benchmarks =
        std::collections::BTreeMap<String, std::collections::BTreeMap<String, Metric>>;
    let benchmarks: Benchmarks = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let (mut saved, mut gaps) = (Vec::new(), Vec::new());
    for (benchmark, measures) in benchmarks {
        for (name, metric) in measures {
            let measure = match name.as_str() {
                "latency" => Measure::Time,
                "throughput" => Measure::Rate,
                "instructions" => Measure::Instructions,
                "build-time" | "build_time" => Measure::BuildTime,
                "file-size" | "file_size" => Measure::BinarySize,
                _ => {
                    gaps.push(format!("{benchmark}: the measure {name} is not known here"));
                    continue;
                }
            };
            let bounds = metric.lower_value.zip(metric.upper_value);
            saved.push(ImportedBenchmark {
                benchmark: benchmark.clone(),
                measure,
                values: vec![metric.value],
                middle: metric.value,
                interval: bounds.unwrap_or((0.5 * metric.value, 1.5 * metric.value)),
            });
        }
    }
    Ok((saved, gaps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read_in_our_units() {
        let text = "{\"results\": [{\"command\": \"sleep 1\", \"mean\": 1.0, \"times\": [1.0, 1.5, 2.0]}]}";
        let found = hyperfine(text).expect("is hyperfine's");
        assert_eq!(
            (found[0].benchmark.as_str(), found[0].middle),
            ("sleep 1", 1.5e9)
        );
        let text = "{\"parse\": {\"latency\": {\"value\": 88.0, \"lower_value\": 87.0, \"upper_value\": 90.0},
                     \"taste\": {\"value\": 1.0}}}";
        let (found, gaps) = bencher(text).expect("is Bencher's");
        assert_eq!(found[0].interval, (87.0, 90.0));
        assert_eq!(gaps, ["parse: the measure taste is not known here"]);
        assert!(bencher("{\"a\": 1}").is_err());
    }
}
