//! Benchmarks as programs print them: what `cargo bench > LOG` and `hyperfine > LOG` keep.

use crate::host::measure::read::{divan_rows, nanoseconds};
use crate::speed::Measure;
use crate::verdict::ImportedBenchmark;

/// What `cargo bench` printed: benchmarks of Criterion, libtest and divan, in this order.
pub(super) fn cargo_bench(text: &str) -> Vec<ImportedBenchmark> {
    let mut found = criterion(text);
    found.extend(text.lines().filter_map(libtest));
    for (name, times) in divan_rows(text) {
        // The slowest time is what an interrupt costs.
        found.extend(times.map(|(fastest, median)| {
            time(
                &name,
                median,
                (fastest, (2.0 * median - fastest).max(median)),
            )
        }));
    }
    found
}

fn time(name: &str, middle: f64, interval: (f64, f64)) -> ImportedBenchmark {
    ImportedBenchmark {
        benchmark: name.to_owned(),
        measure: Measure::Time,
        values: vec![middle],
        middle,
        interval,
    }
}

/// `name    time:   [26.029 µs 26.251 µs 26.505 µs]`; a long name stands on the line before.
fn criterion(text: &str) -> Vec<ImportedBenchmark> {
    let mut found = Vec::new();
    let mut last = "";
    for line in text.lines() {
        if let Some((before, rest)) = line.split_once(" time:") {
            let name = if before.trim().is_empty() {
                last
            } else {
                before
            };
            if let Some([low, middle, high]) = three_times(rest) {
                found.push(time(name.trim(), middle, (low, high)));
            }
        } else if !line.trim().is_empty() && !line.starts_with("Benchmarking ") {
            last = line;
        }
    }
    found
}

fn three_times(text: &str) -> Option<[f64; 3]> {
    let (inside, _) = text.trim_start().strip_prefix('[')?.split_once(']')?;
    let words: Vec<&str> = inside.split_whitespace().collect();
    let times: Option<Vec<f64>> = words
        .chunks(2)
        .map(|value| nanoseconds(&value.join(" ")))
        .collect();
    times?.try_into().ok()
}

/// `test name ... bench:       1,234.56 ns/iter (+/- 12.00)`
fn libtest(line: &str) -> Option<ImportedBenchmark> {
    let (name, rest) = line
        .trim_start()
        .strip_prefix("test ")?
        .split_once(" ... bench:")?;
    let (middle, rest) = rest.trim_start().split_once(" ns/iter (+/- ")?;
    let (around, _) = rest.split_once(')')?;
    let number = |text: &str| text.replace(',', "").parse::<f64>().ok();
    let (middle, around) = (number(middle)?, number(around)?);
    (middle > 0.0).then(|| time(name.trim(), middle, (middle - around, middle + around)))
}

/// What hyperfine printed: the mean, between the shortest and the longest run.
///
/// ```text
/// Benchmark 1: sleep 0.1
///   Time (mean ± σ):     102.1 ms ±   0.6 ms    [User: 1.0 ms, System: 1.4 ms]
///   Range (min … max):   101.4 ms … 103.4 ms    28 runs
/// ```
pub(super) fn hyperfine(text: &str) -> Vec<ImportedBenchmark> {
    let mut found = Vec::new();
    let (mut name, mut mean) = (None, None);
    let value = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().take(2).collect();
        nanoseconds(&words.join(" "))
    };
    for line in text.lines() {
        let line = line.trim();
        if let Some((number, command)) = line
            .strip_prefix("Benchmark ")
            .and_then(|rest| rest.split_once(": "))
            && number.bytes().all(|b| b.is_ascii_digit())
        {
            (name, mean) = (Some(command), None);
        } else if let Some(rest) = line.strip_prefix("Time (mean ± σ):") {
            mean = value(rest);
        } else if let Some(rest) = line.strip_prefix("Range (min … max):")
            && let Some((low, high)) = rest.split_once('…')
            && let (Some(name), Some(mean)) = (name, mean)
            && let (Some(low), Some(high)) = (value(low), value(high))
        {
            found.push(time(name, mean, (low, high)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(found: Vec<ImportedBenchmark>) -> Vec<(String, f64, (f64, f64))> {
        let row = |one: ImportedBenchmark| (one.benchmark, one.middle, one.interval);
        found.into_iter().map(row).collect()
    }

    #[test]
    fn what_cargo_bench_prints_is_read() {
        let text = "
running 3 tests
test tests::adds ... ignored
test m::sum ... bench:       1,200.50 ns/iter (+/- 12.25) = 12 MB/s

Benchmarking fib 20
Benchmarking fib 20: Warming up for 3.0000 s
fib 20                  time:   [26.000 µs 26.250 µs 26.500 µs]
                        change: [-0.5% +0.1% +0.8%] (p = 0.80 > 0.05)
                        No change in performance detected.
a name that is longer than its column
                        time:   [1.0000 ms 1.5000 ms 2.0000 ms]
                        thrpt:  [1.0 Melem/s 1.5 Melem/s 2.0 Melem/s]
                 change:
                        time:   [-0.5% +0.1% +0.8%] (p = 0.80 > 0.05)
Timer precision: 20 ns
b           fastest       │ slowest       │ median        │ mean          │ samples │ iters
├─ plain    7.5 µs        │ 4.073 ms      │ 10 µs         │ 50.64 µs      │ 100     │ 100
╰─ fib                    │               │               │               │         │
   ╰─ 1     15 ns         │ 16.23 ns      │ 15.5 ns       │ 15.1 ns       │ 100     │ 12800
";
        let expected = [
            ("fib 20", 26_250.0, (26_000.0, 26_500.0)),
            ("a name that is longer than its column", 1.5e6, (1e6, 2e6)),
            ("m::sum", 1200.5, (1188.25, 1212.75)),
            ("plain", 10_000.0, (7_500.0, 12_500.0)),
            ("fib::1", 15.5, (15.0, 16.0)),
        ];
        let expected = expected.map(|(name, middle, ends)| (name.to_owned(), middle, ends));
        assert_eq!(read(cargo_bench(text)), expected);
    }

    #[test]
    fn what_hyperfine_prints_is_read() {
        let text = "Benchmark 1: sleep 0.1
  Time (mean ± σ):     102.0 ms ±   0.6 ms    [User: 1.0 ms, System: 1.4 ms]
  Range (min … max):   101.0 ms … 103.0 ms    28 runs
";
        assert_eq!(
            read(hyperfine(text)),
            [("sleep 0.1".to_owned(), 102e6, (101e6, 103e6))]
        );
        assert_eq!(read(hyperfine("Time (mean ± σ): x")), []);
    }
}
