//! Trends and milestones, from measurements that were made elsewhere and imported.

use serde_json::{Value, json};

use crate::fixture::Fixture;

/// A fixture with so many empty commits after the first one, and their names, oldest
/// first.
fn commits(count: usize) -> (Fixture, Vec<String>) {
    let fixture = Fixture::new();
    for number in 0..count {
        fixture.git(&[
            "commit",
            "--quiet",
            "--allow-empty",
            "-m",
            &number.to_string(),
        ]);
    }
    let listed = fixture.git(&["log", "--reverse", "--format=%H"]);
    let commits = listed.lines().skip(1).map(str::to_owned).collect();
    (fixture, commits)
}

/// Some values around `centre`, the same each time.
fn around(centre: f64, n: usize, shift: usize) -> Vec<f64> {
    let step = |i: usize| [0.3, -0.8, 0.5, -0.1, 0.9, -0.6][(i + shift) % 6];
    (0..n).map(|i| centre * (1.0 + 0.002 * step(i))).collect()
}

fn measured(id: &str, session: &str, purpose: &str, commit: &str, values: &[f64]) -> Value {
    json!({
        "record": "speed",
        "id": id,
        "session": session,
        "started_ms": 1_700_000_000_000_i64,
        "finished_ms": 1_700_000_001_000_i64,
        "purpose": purpose,
        "subject": {"tree": commit, "commit": commit, "dirty": false, "checkout": true, "branch": "main"},
        "fingerprint": {"cores": "2"},
        "measurements": [{"benchmark": "sort/1k", "measure": "time", "values": values}],
    })
}

fn import(fixture: &Fixture, records: &[Value]) {
    let path = fixture.outside("records.jsonl");
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    std::fs::write(&path, lines.join("\n")).expect("written");
    let answer = fixture.palisade(&["store", "import", &path.display().to_string()]);
    assert_eq!(answer.code, 0, "{}", answer.err);
}

#[test]
fn a_lasting_step_is_named_with_the_commits_to_compare() {
    let (fixture, commits) = commits(60);
    assert_eq!(fixture.palisade(&["history"]).code, 3);
    let cost = |at: usize| if at < 40 { 1e6 } else { 1.08e6 };
    let mut records: Vec<Value> = (0..60)
        .map(|at| {
            measured(
                &format!("r{at}"),
                &format!("s{at}"),
                "series",
                &commits[at],
                &around(cost(at), 5, at),
            )
        })
        .collect();
    let mut elsewhere = measured("e", "e", "series", &commits[3], &[9e6]);
    elsewhere["fingerprint"]["cores"] = "64".into();
    elsewhere["started_ms"] = 1.into();
    records.push(elsewhere);
    import(&fixture, &records);

    let answer = fixture.palisade(&["history"]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let (before, step) = (&commits[39][..10], &commits[40][..10]);
    for part in [
        "sort/1k, time: 1.08",
        "+8.0 %",
        &format!("not compared yet: cargo palisade compare {before} {step}"),
        "left out: 1 measured in another environment (cores: 2 here, 64 there)",
    ] {
        assert!(answer.out.contains(part), "{part}\n{}", answer.out);
    }
    let (_, json) = fixture.json(&["history", "sort"]);
    let series = &json["series"][0];
    assert_eq!(series["points"].as_array().expect("points").len(), 60);
    assert_eq!(series["changes"][0]["commit"], commits[40].as_str());
    let csv = fixture.palisade(&["history", "--csv"]).out;
    assert_eq!(csv.lines().count(), 61, "{csv}");
    assert!(
        csv.contains(&format!("\"sort/1k\",time,ns,{}", commits[40])),
        "{csv}"
    );
    let page = fixture.outside("history.html");
    fixture.palisade(&["history", "--html", &page.display().to_string()]);
    let page = std::fs::read_to_string(page).expect("written");
    assert!(page.contains("sort/1k: time") && page.contains("+8.0 %"));

    // A comparison of the two commits confirms it.
    import(
        &fixture,
        &[
            measured("c1", "c", "comparison", &commits[39], &around(1e6, 12, 0)),
            measured(
                "c2",
                "c",
                "comparison",
                &commits[40],
                &around(1.08e6, 12, 2),
            ),
        ],
    );
    let text = fixture.palisade(&["history"]).out;
    assert!(text.contains("confirmed: 8."), "{text}");
}

#[test]
fn a_drip_is_caught_against_the_milestone() {
    let (fixture, commits) = commits(4);
    let answer = fixture.palisade(&["milestone", "check"]);
    assert_eq!(answer.code, 2);
    assert!(answer.err.contains("milestone set NAME"), "{}", answer.err);
    let set = fixture.palisade(&["milestone", "set", "1.0", &commits[0]]);
    assert_eq!(set.code, 0, "{}", set.err);
    assert!(
        fixture
            .palisade(&["milestone", "list"])
            .out
            .contains("1.0: ")
    );
    // Nothing measured is never a pass.
    assert_eq!(fixture.palisade(&["milestone", "check"]).code, 3);

    // Each commit is 3 % slower than its parent, and the benchmark shows 1.5 % between
    // equal programs: one step is less than its threshold of 4.5 %.
    let mut records = vec![json!({
        "record": "calibration", "id": "cal", "at_ms": 1, "fingerprint": {"cores": "2"},
        "spreads": [{"benchmark": "sort/1k", "measure": "time", "comparisons": 20, "spread": 0.015}],
        "false_alarms": {"found": 0, "of": 20}, "detections": [],
    })];
    for step in 0..3 {
        let session = format!("s{step}");
        let cost = 1e6 * 1.03_f64.powi(step);
        let at = step as usize;
        for (revision, ratio) in [(0, 1.0), (1, 1.03)] {
            let id = format!("{session}-{revision}");
            let values = around(cost * ratio, 24, 2 * revision);
            records.push(measured(
                &id,
                &session,
                "comparison",
                &commits[at + revision],
                &values,
            ));
        }
    }
    import(&fixture, &records);
    let (code, json) = fixture.json(&["milestone", "check", "1.0"]);
    assert_eq!(code, 1, "{json:#}");
    let standing = &json["standings"][0];
    assert_eq!(standing["state"], "regressed");
    assert_eq!(standing["path"].as_array().expect("a path").len(), 4);
    let text = fixture.palisade(&["milestone", "check"]).out;
    assert!(text.contains("regressed: sort/1k, time: +9.3 %"), "{text}");
    // The parents alone say nothing.
    fixture.palisade(&["milestone", "set", "parent", &commits[2]]);
    assert_eq!(fixture.palisade(&["milestone", "check", "parent"]).code, 4);
}

#[test]
fn a_restless_benchmark_must_move_further_to_count() {
    let (fixture, commits) = commits(60);
    let cost = |at: usize| if at < 40 { 1e6 } else { 1.05e6 };
    let run = |at: usize| {
        let (id, values) = (at.to_string(), around(cost(at), 5, at));
        measured(&id, &id, "series", &commits[at], &values)
    };
    import(&fixture, &(0..60).map(run).collect::<Vec<_>>());
    let changes = || {
        let (_, json) = fixture.json(&["history"]);
        json["series"][0]["changes"]
            .as_array()
            .expect("a list")
            .len()
    };
    assert_eq!(changes(), 1);
    let calibrated = |id: &str, at: i64, spread: f64| {
        json!({
            "record": "calibration", "id": id, "at_ms": at, "fingerprint": {"cores": "2"},
            "spreads": [{"benchmark": "sort/1k", "measure": "time", "comparisons": 20, "spread": spread}],
            "false_alarms": {"found": 0, "of": 20}, "detections": [],
        })
    };
    // Three times 1 % is less than 5 %, three times 2 % more. The newest counts.
    import(&fixture, &[calibrated("calm", 1, 0.01)]);
    assert_eq!(changes(), 1);
    import(&fixture, &[calibrated("restless", 2, 0.02)]);
    assert_eq!(changes(), 0);
}

#[test]
fn a_milestone_holds_the_tests_that_were_seen_of_it() {
    let fixture = Fixture::with_baseline();
    fixture.palisade(&["milestone", "set", "1.0"]);
    let (code, json) = fixture.json(&["milestone", "check"]);
    assert_eq!((code, &json["tests"]["verdict"]), (0, &"pass".into()));
    // A document says what is not true.
    fixture.write(
        "README.md",
        "There are 4<!-- claim: command = \"echo 3\" --> of them.\n",
    );
    fixture.commit("a claim");
    let (code, json) = fixture.json(&["milestone", "check", "--measure"]);
    assert_eq!(
        (code, &json["tests"]["verdict"]),
        (1, &"pass".into()),
        "{json:#}"
    );
    assert_eq!(json["claims"][0]["state"], "broken", "{json:#}");
    // Two commits later, a test fails: what is not known is no pass.
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2\n");
    fixture.commit("wrong");
    fixture.write("README.md", "more\n");
    fixture.commit("more");
    assert_eq!(fixture.palisade(&["milestone", "check"]).code, 3);
    let answer = fixture.palisade(&["milestone", "check", "--measure"]);
    assert_eq!(answer.code, 1, "{}{}", answer.out, answer.err);
    let line = "newly failing: gamma/lib/tests::is_one: it failed in";
    assert!(answer.out.contains(line), "{}", answer.out);
    // Now both are known.
    assert_eq!(fixture.palisade(&["milestone", "check"]).code, 1);
}
