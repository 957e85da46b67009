//! Reads what benchmarks write, and judges none of it. Pure but for the files of
//! Criterion.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::stats::median;

/// What Criterion's `sample.json` holds.
#[derive(Debug, Deserialize)]
struct Sample {
    iters: Vec<f64>,
    times: Vec<f64>,
}

/// What `palisade-alloc` writes.
#[derive(Debug, Deserialize)]
struct Allocations {
    allocations: u64,
    bytes: u64,
}

/// What Criterion's `benchmark.json` says.
#[derive(Debug, Deserialize)]
struct Benchmark {
    full_id: String,
}

/// Nanoseconds of one run of a Criterion benchmark, from the samples of a launch that
/// wrote them below `home`; `None` if there are none. Criterion's own estimate is not
/// used: its interval is over iterations of one launch, which are not independent.
pub fn criterion(home: &Path, id: &str) -> Option<f64> {
    let folder = sample_folders(home).into_iter().find(|folder| {
        let text = fs::read(folder.join("benchmark.json")).unwrap_or_default();
        serde_json::from_slice(&text).is_ok_and(|found: Benchmark| found.full_id == id)
    })?;
    let text = fs::read(folder.join("sample.json")).ok()?;
    let sample: Sample = serde_json::from_slice(&text).ok()?;
    undisturbed(&sample).filter(|time| time.is_finite() && *time > 0.0)
}

/// The benchmarks of a folder of Criterion, by name, with the nanoseconds of one run in each
/// of their samples.
pub fn criterion_samples(home: &Path) -> Vec<(String, Vec<f64>)> {
    let read = |folder: &PathBuf| {
        let name = fs::read(folder.join("benchmark.json")).ok()?;
        let name: Benchmark = serde_json::from_slice(&name).ok()?;
        let sample = fs::read(folder.join("sample.json")).ok()?;
        let sample: Sample = serde_json::from_slice(&sample).ok()?;
        let samples = sample.times.iter().zip(&sample.iters);
        Some((
            name.full_id,
            samples.map(|(time, iters)| time / iters).collect(),
        ))
    };
    let mut found: Vec<_> = sample_folders(home).iter().filter_map(read).collect();
    found.sort_by(|a: &(String, Vec<f64>), b| a.0.cmp(&b.0));
    found
}

/// How many times the median a sample may take that nothing interrupted.
const INTERRUPTED: f64 = 1.25;

/// Time by runs, over the samples that were not interrupted: those in which another
/// program had the processor for a while are longer by far than the others. What is in
/// all samples now and then, as an injected slowdown is, counts by its share of the time,
/// where a median of samples would see it or not.
fn undisturbed(sample: &Sample) -> Option<f64> {
    let samples = || sample.times.iter().zip(&sample.iters);
    let per_run: Vec<f64> = samples().map(|(time, iters)| time / iters).collect();
    let longest = INTERRUPTED * median(&per_run)?;
    let calm = samples().filter(|(time, iters)| *time / *iters <= longest);
    let (time, iters) = calm.fold((0.0, 0.0), |(t, i), (time, iters)| (t + time, i + iters));
    (iters > 0.0).then(|| time / iters)
}

/// What a program with `palisade-alloc` wrote: how often it allocated, and how many bytes.
pub fn allocations(file: &Path) -> Option<(f64, f64)> {
    let counts: Allocations = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    Some((counts.allocations as f64, counts.bytes as f64))
}

/// The folders called `new` below `home`.
fn sample_folders(home: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![home.to_owned()];
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.path().is_dir()) {
            if entry.file_name() == "new" {
                found.push(entry.path());
            } else {
                open.push(entry.path());
            }
        }
    }
    found
}

/// Names in a list of Criterion or libtest: `name: benchmark`.
pub fn listed(out: &str) -> Vec<String> {
    let names = out.lines().filter_map(|line| {
        let line = line.trim_end();
        line.strip_suffix(": benchmark")
            .or_else(|| line.strip_suffix(": bench"))
    });
    names.map(str::to_owned).collect()
}

/// Nanoseconds of one run of a libtest benchmark:
/// `test name ... bench:       1,234.56 ns/iter (+/- 12.00)`.
pub fn libtest(out: &str, id: &str) -> Option<f64> {
    let line = out.lines().find_map(|line| {
        let rest = line.trim_start().strip_prefix("test ")?.strip_prefix(id)?;
        rest.trim_start().strip_prefix("... bench:")
    })?;
    let number = line.trim_start().split(' ').next()?.replace(',', "");
    number.parse().ok().filter(|time: &f64| *time > 0.0)
}

/// The benchmarks of divan's table, or list, with the medians of those that were run,
/// in nanoseconds. A name is what its branches say, joined by `::`.
pub fn divan(out: &str) -> Vec<(String, Option<f64>)> {
    let rows = divan_rows(out).into_iter();
    rows.map(|(name, times)| (name, times.map(|(_, median)| median)))
        .collect()
}

/// The fastest time and the median of a benchmark, in nanoseconds.
type Times = (f64, f64);

/// As [`divan`], with the fastest time before the median.
pub fn divan_rows(out: &str) -> Vec<(String, Option<Times>)> {
    let mut rows: Vec<(usize, String, Option<Times>)> = Vec::new();
    for line in out.lines() {
        let Some(branch) = line.find(['├', '╰']) else {
            continue;
        };
        // Each level is three columns wide.
        let depth = line[..branch].chars().count() / 3;
        let row = line[branch..].trim_start_matches(['├', '╰', '─', ' ']);
        let cells: Vec<&str> = row.split('│').map(str::trim).collect();
        // The first cell holds the name and, a gap further, the fastest time.
        let (name, fastest) = cells[0].split_once("  ").unwrap_or((cells[0], ""));
        let median = cells.get(2).and_then(|cell| nanoseconds(cell));
        let times = nanoseconds(fastest.trim()).zip(median);
        rows.push((depth, name.to_owned(), times));
    }
    let mut path: Vec<&str> = Vec::new();
    let mut found = Vec::new();
    for (at, (depth, name, time)) in rows.iter().enumerate() {
        path.truncate(*depth);
        path.push(name);
        let has_branches = rows.get(at + 1).is_some_and(|(next, ..)| next > depth);
        if !has_branches {
            found.push((path.join("::"), *time));
        }
    }
    found
}

/// A time that a benchmark prints, such as `1.234 µs`.
pub fn nanoseconds(cell: &str) -> Option<f64> {
    let (number, unit) = cell.split_once(' ')?;
    let factor = match unit {
        "ps" => 1e-3,
        "ns" => 1.0,
        "µs" | "μs" | "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        _ => return None,
    };
    let number: f64 = number.replace(',', "").parse().ok()?;
    (number > 0.0).then_some(number * factor)
}

/// The number in the last line that is not empty.
pub fn last_number(out: &str) -> Option<f64> {
    let line = out.lines().rev().find(|line| !line.trim().is_empty())?;
    line.trim().parse().ok().filter(|n: &f64| n.is_finite())
}

/// The numbers of a JSON document by their keys, joined by `/`.
pub fn json_numbers(out: &str) -> Option<Vec<(String, f64)>> {
    fn visit(path: &str, value: &serde_json::Value, found: &mut Vec<(String, f64)>) {
        let below = |key: &str| match path {
            "" => key.to_owned(),
            path => format!("{path}/{key}"),
        };
        match value {
            serde_json::Value::Number(number) => {
                found.extend(number.as_f64().map(|number| (path.to_owned(), number)));
            }
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    visit(&below(key), value, found);
                }
            }
            serde_json::Value::Array(list) => {
                for (at, value) in list.iter().enumerate() {
                    visit(&below(&at.to_string()), value, found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    visit("", &serde_json::from_str(out).ok()?, &mut found);
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn criterions_samples_are_read_by_name() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("dot_simd/4K/new");
        fs::create_dir_all(&folder).expect("created");
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("written");
        write(
            "benchmark.json",
            r#"{"full_id": "dot/simd/4K", "group_id": "dot"}"#,
        );
        let sample =
            r#"{"sampling_mode": "Linear", "iters": [1, 2, 3, 4], "times": [90, 200, 310, 4000]}"#;
        write("sample.json", sample);
        // The last sample was interrupted.
        assert_eq!(criterion(home.path(), "dot/simd/4K"), Some(100.0));
        assert_eq!(criterion(home.path(), "dot/simd/1K"), None);
        write("sample.json", "{}");
        assert_eq!(criterion(home.path(), "dot/simd/4K"), None);
    }

    #[test]
    fn lists_are_read() {
        let out = "a/b: benchmark\ntests::t: test\nx y/1: bench\n\n3 tests, 2 benchmarks\n";
        assert_eq!(listed(out), ["a/b", "x y/1"]);
    }

    #[test]
    fn libtests_line_is_read() {
        let out = "\nrunning 2 tests\ntest m::sum2 ... bench:          12 ns/iter (+/- 1)\n\
                   test m::sum ... bench:       1,234.56 ns/iter (+/- 12.00) = 12 MB/s\n";
        assert_eq!(libtest(out, "m::sum"), Some(1234.56));
        assert_eq!(libtest(out, "m::sum2"), Some(12.0));
        assert_eq!(libtest(out, "m::other"), None);
    }

    #[test]
    fn divans_table_is_read() {
        let out = "\
Timer precision: 20 ns
b           fastest       │ slowest       │ median        │ mean          │ samples │ iters
├─ fib                    │               │               │               │         │
│  ├─ 1     15.05 ns      │ 16.23 ns      │ 15.06 ns      │ 15.1 ns       │ 100     │ 12800
│  ╰─ 22    94.64 µs      │ 4.151 ms      │ 94.65 µs      │ 136.3 µs      │ 100     │ 100
├─ plain    7.645 µs      │ 4.073 ms      │ 10.06 µs      │ 50.64 µs      │ 100     │ 100
╰─ inner                  │               │               │               │         │
   ╰─ arr                 │               │               │               │         │
      ╰─ 4  21.39 ns      │ 190.2 ns      │ 22.37 ns      │ 24.07 ns      │ 100     │ 12800
";
        let expected = [
            ("fib::1", 15.06),
            ("fib::22", 94_650.0),
            ("plain", 10_060.0),
            ("inner::arr::4", 22.37),
        ];
        let found = divan(out);
        assert_eq!(found.len(), expected.len());
        for ((name, time), (expected, nanoseconds)) in found.iter().zip(expected) {
            assert_eq!(name, expected);
            assert!((time.expect("a time") - nanoseconds).abs() < 1e-6);
        }
        let list = "b\n├─ fib\n├─ plain\n╰─ inner\n   ╰─ arr\n      ╰─ 4\n";
        let names: Vec<_> = divan(list).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["fib", "plain", "inner::arr::4"]);
    }

    #[test]
    fn numbers_are_read() {
        assert_eq!(last_number("loading\n 12.5 \n\n"), Some(12.5));
        assert_eq!(last_number("12.5 ns"), None);
        assert_eq!(last_number("NaN"), None);
        let json = r#"{"a": 1, "b": {"c": 2.5, "d": "text"}, "e": [3]}"#;
        let expected = [("a", 1.0), ("b/c", 2.5), ("e/0", 3.0)];
        let expected = expected.map(|(name, n)| (name.to_owned(), n));
        assert_eq!(json_numbers(json).expect("numbers"), expected);
        assert_eq!(json_numbers("{}"), None);
        assert_eq!(json_numbers("1 2"), None);
    }
}
