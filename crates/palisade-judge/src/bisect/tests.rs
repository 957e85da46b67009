use super::*;

/// A graph from `commit:parent,parent` words, after the commit `good`.
fn graph(words: &str) -> Graph {
    let node = |word: &str| {
        let (id, parents) = word.split_once(':').expect("commit:parents");
        Node {
            id: id.to_owned(),
            parents: parents.split(',').map(str::to_owned).collect(),
        }
    };
    Graph::new("good", words.split(' ').map(node).collect()).expect("a graph")
}

/// Searches with an oracle; returns the answer and the commits that were looked at.
fn search(
    graph: Graph,
    rules: SearchRules,
    mut look: impl FnMut(&str) -> CommitObservation,
) -> (SearchResult, Vec<String>) {
    let mut search = Search::new(graph, rules);
    let mut looked = Vec::new();
    loop {
        let at = looked.last().map(String::as_str);
        match search.step(at) {
            SearchStep::Observe(commit) => {
                assert!(looked.len() < 500, "{looked:?}");
                let seen = look(&commit);
                search.observe(&commit, seen);
                looked.push(commit);
            }
            SearchStep::Done(answer) => return (answer, looked),
        }
    }
}

fn verdict(is_bad: bool) -> CommitObservation {
    if is_bad {
        CommitObservation::Bad
    } else {
        CommitObservation::Good
    }
}

/// That these commits are named, and nothing is left to doubt.
fn check(answer: &SearchResult, expected: &[&str]) {
    assert!(
        matches!(answer, SearchResult::Culprit { commits, confidence }
            if commits == expected && *confidence > 1.0 - 1e-9),
        "{answer:?}"
    );
}

/// A mainline of three commits, a side branch from before the good end, a merge of it and
/// two more commits.
const MERGED: &str = "a:good b:a s:old t:s c:b m:c,t d:m e:d";

#[test]
fn a_culprit_on_either_side_of_a_merge_is_found() {
    let all = graph(MERGED);
    let held: Vec<(String, Vec<String>)> = (0..all.suspects())
        .map(|commit| {
            let names = (0..all.suspects()).filter(|s| all.holds(commit, *s));
            let held = names.map(|s| all.nodes()[s].id.clone()).collect();
            (all.nodes()[commit].id.clone(), held)
        })
        .collect();
    for place in 0..all.suspects() {
        let broken = all.nodes()[place].id.clone();
        let is_bad = |commit: &str| {
            let held = held.iter().find(|(id, _)| id == commit);
            held.is_some_and(|(_, held)| held.contains(&broken))
        };
        let (answer, _) = search(all.clone(), SearchRules::default(), |c| verdict(is_bad(c)));
        check(&answer, &[&broken]);
    }
}

#[test]
fn a_culprit_among_skipped_commits_is_a_set() {
    let words = "a:good b:a c:b d:c e:d f:e";
    let look = |commit: &str| match commit {
        "c" | "d" => CommitObservation::Skip,
        commit => verdict(commit >= "c" && commit != "good"),
    };
    let (answer, _) = search(graph(words), SearchRules::default(), look);
    check(&answer, &["c", "d", "e"]);
    // Where nothing but the ends can be measured, it is one of all.
    let look = |commit: &str| match commit {
        "f" => CommitObservation::Bad,
        "good" => CommitObservation::Good,
        _ => CommitObservation::Skip,
    };
    let (answer, _) = search(graph(words), SearchRules::default(), look);
    check(&answer, &["a", "b", "c", "d", "e", "f"]);
}

#[test]
fn ends_that_cannot_be_measured_or_show_the_same_are_said_to() {
    let words = "a:good b:a c:b";
    let look = |commit: &str| match commit {
        "c" => CommitObservation::Skip,
        commit => verdict(commit != "good"),
    };
    let (answer, _) = search(graph(words), SearchRules::default(), look);
    let commit = "c".to_owned();
    assert_eq!(answer, SearchResult::Unmeasured { commit });
    let metric = SearchRules {
        model: Some(FailureModel::Ratios),
        ..SearchRules::default()
    };
    let look = |commit: &str| match commit {
        "good" => CommitObservation::Skip,
        _ => CommitObservation::LogRatios(vec![0.1; BLOCK_PAIRS]),
    };
    let (answer, _) = search(graph(words), metric, look);
    let commit = "good".to_owned();
    assert_eq!(answer, SearchResult::Unmeasured { commit });
    for is_bad in [true, false] {
        let (answer, looked) = search(graph(words), SearchRules::default(), |_| verdict(is_bad));
        assert!(matches!(answer, SearchResult::Alike { confidence } if confidence >= 0.95));
        assert!(looked.len() <= 60, "{}", looked.len());
    }
    // A few passes of both ends, and no failure, name nobody.
    let few = SearchRules {
        max_runs: 8,
        ..SearchRules::default()
    };
    let (answer, _) = search(graph(words), few, |_| verdict(false));
    assert!(
        matches!(answer, SearchResult::Undecided { .. }),
        "{answer:?}"
    );
    let metric = SearchRules {
        model: Some(FailureModel::Ratios),
        ..SearchRules::default()
    };
    let noise = |i: usize| 0.01 * [0.5, -0.8, 0.1, 0.9, -0.4, 0.0][i];
    let same = || CommitObservation::LogRatios((0..BLOCK_PAIRS).map(noise).collect());
    let (answer, _) = search(graph(words), metric, |_| same());
    assert!(matches!(answer, SearchResult::Alike { .. }), "{answer:?}");
}

#[test]
fn a_good_end_that_cannot_be_measured_is_taken_on_trust() {
    let words = "a:good b:a c:b d:c";
    for (skipped, first_bad, expected) in [
        (&["good"][..], "c", &["c"][..]),
        (&["good", "a"], "c", &["c"]),
        (&["good", "a"], "b", &["a", "b"]),
        (&["good"], "a", &["a"]),
    ] {
        let look = |commit: &str| {
            if skipped.contains(&commit) {
                CommitObservation::Skip
            } else {
                verdict(commit >= first_bad)
            }
        };
        let (answer, _) = search(graph(words), SearchRules::default(), look);
        check(&answer, expected);
    }
}

#[test]
fn a_pass_of_what_seemed_certain_is_not_believed() {
    // d fails nine times in ten, and its first look passes: halving alone would name e.
    let mut looks = 0;
    let look = |commit: &str| {
        looks += usize::from(commit == "d");
        verdict(commit >= "d" && commit != "good" && (commit != "d" || looks > 1))
    };
    let words = "a:good b:a c:b d:c e:d f:e g:f h:g";
    let (answer, _) = search(graph(words), SearchRules::default(), look);
    assert!(
        matches!(&answer, SearchResult::Culprit { commits, .. } if commits == &["d"]),
        "{answer:?}"
    );
    // d passes three times at first: two would have been believed. Or c, which does not hold the
    // culprit, fails once: one look at it would have been. And where the runs end before that is
    // found out, nothing is called sure.
    for (lies, limit) in [
        (["d"; 3].as_slice(), 200),
        (&["c"], 200),
        (&["d"; 3], 12),
        (&["c"], 12),
    ] {
        let mut lies = lies.to_vec();
        let look = |commit: &str| {
            let lie = lies.iter().position(|lying| *lying == commit);
            let lie = lie.map(|lie| lies.remove(lie));
            verdict((commit >= "d" && commit != "good") != lie.is_some())
        };
        let rules = SearchRules {
            max_runs: limit,
            ..SearchRules::default()
        };
        let (answer, _) = search(graph(words), rules, look);
        let may_be_sure = |commits: &[String]| limit > 12 && commits == ["d"];
        let is_right = match &answer {
            SearchResult::Culprit { commits, .. } => may_be_sure(commits),
            SearchResult::Undecided { .. } => true,
            _ => false,
        };
        assert!(is_right, "{answer:?}");
    }
    let certain = SearchRules {
        model: Some(FailureModel::Certain),
        ..SearchRules::default()
    };
    // What cannot be is said, where the failure was said to be certain.
    let look = |commit: &str| verdict(["b", "h"].contains(&commit));
    let mut flipping = Search::new(graph(words), certain);
    for commit in ["h", "good", "d", "b"] {
        flipping.observe(commit, look(commit));
    }
    assert_eq!(
        flipping.step(None),
        SearchStep::Done(SearchResult::Contradiction)
    );
}

#[test]
fn the_same_observations_lead_to_the_same_commit() {
    let mut search = Search::new(graph(MERGED), SearchRules::default());
    let mut log: Vec<(String, CommitObservation)> = Vec::new();
    let mut fails = [true, true, false, true, false, false, true, false].into_iter();
    while let (SearchStep::Observe(commit), Some(is_bad)) = (search.step(None), fails.next()) {
        let mut again = Search::new(graph(MERGED), SearchRules::default());
        for (commit, seen) in &log {
            again.observe(commit, seen.clone());
        }
        assert_eq!(again.step(None), SearchStep::Observe(commit.clone()));
        let seen = verdict(is_bad);
        search.observe(&commit, seen.clone());
        log.push((commit, seen));
    }
    assert_eq!(log.len(), 8);
}

#[test]
fn a_likelier_suspect_needs_less_evidence_and_the_end_of_the_runs_is_open() {
    let rules = SearchRules {
        model: Some(FailureModel::Rates),
        max_runs: 12,
        ..SearchRules::default()
    };
    let words = "a:good b:a c:b d:c e:d f:e g:f h:g";
    let probability = |weights: &[f64; 8]| {
        let mut search = Search::new(graph(words), rules);
        search.weigh(weights);
        for (commit, is_bad) in [("h", true), ("good", false), ("d", true), ("b", false)] {
            search.observe(commit, verdict(is_bad));
        }
        search.probabilities()[2]
    };
    assert!(probability(&[1.0, 1.0, 8.0, 1.0, 1.0, 1.0, 1.0, 1.0]) > 1.5 * probability(&[1.0; 8]));
    let mut at = 0;
    let (answer, looked) = search(graph(words), rules, |_| {
        at += 1;
        verdict(at % 3 == 0)
    });
    assert!(
        matches!(
            answer,
            SearchResult::Undecided { .. } | SearchResult::Alike { .. }
        ),
        "{answer:?}"
    );
    assert!(looked.len() <= 12);
}
