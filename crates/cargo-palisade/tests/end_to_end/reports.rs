//! The forms that a verdict is told in, and the risk of each class of change.

use std::fs;
use std::process::Command;

use crate::fixture::Fixture;

#[test]
fn a_verdict_is_told_in_every_form() {
    let fixture = Fixture::with_baseline();
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2\n");
    let [junit, markdown, html] = ["r.xml", "r.md", "r.html"].map(|name| fixture.outside(name));
    let path = |path: &std::path::Path| path.display().to_string();
    let answer = fixture.palisade(&[
        "check",
        "--color=never",
        "--junit",
        &path(&junit),
        "--markdown",
        &path(&markdown),
        "--html",
        &path(&html),
    ]);
    assert_eq!(answer.code, 1, "{}{}", answer.out, answer.err);
    assert_eq!(answer.err, "", "nothing but the result is said");
    let head = fixture.git(&["rev-parse", "--short=10", "HEAD"]);
    let lines: Vec<&str> = answer.out.lines().collect();
    assert_eq!(
        lines[0],
        "REGRESSION gamma/lib/tests::is_one (newly failing)"
    );
    let status = format!(
        "  Status   it failed in 6 of 6 runs, and in 0 of 6 at {head} (Fisher's exact test, p = 0.001)"
    );
    assert_eq!(lines[1], status);
    assert_eq!(lines[2], "  Meaning  the change broke it");
    assert_eq!(
        lines[3],
        "  Next     cargo palisade test --test gamma/lib/tests::is_one"
    );
    for (file, part) in [
        (&junit, "<testcase name=\"gamma/lib/tests::is_one\""),
        (&markdown, "**`gamma/lib/tests::is_one`** is newly failing"),
        (&html, "<b>gamma/lib/tests::is_one</b> (newly failing)"),
    ] {
        let text = fs::read_to_string(file).expect("written");
        assert!(text.contains(part), "{text}");
    }
}

/// A browser that can draw a page without a window.
fn browser() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    names.into_iter().find(|name| {
        let version = Command::new(name).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    })
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that cannot run must say so")]
fn the_page_fits_a_phone() {
    let Some(browser) = browser() else {
        eprintln!("skipped: no Chromium is installed");
        return;
    };
    let fixture = Fixture::with_baseline();
    let body = fixture.flaky_body("half", 2, &[1]);
    fixture.add_test("gamma", "flips", &body);
    fixture.edit("gamma/src/lib.rs", "    1\n", "    2\n");
    let page = fixture.outside("page.html");
    let answer = fixture.palisade(&["check", "--html", &page.display().to_string()]);
    assert_eq!(answer.code, 1, "{}", answer.err);
    // The page has no script; the copy measures itself.
    let text = fs::read_to_string(&page).expect("written");
    let script =
        "<script>document.title = 'width ' + document.documentElement.scrollWidth</script>";
    let frame = fixture.outside("frame.html");
    fs::write(&page, text.replace("</body>", &format!("{script}</body>"))).expect("written");
    // A browser's window is at least 500 wide, so a phone is a frame in it.
    let document = "<iframe src=page.html width=360 height=640></iframe>
        <script>onload = () => document.title = frames[0].document.title</script>";
    fs::write(&frame, document).expect("written");
    let dom = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
        ])
        .arg(format!(
            "--user-data-dir={}",
            fixture.outside("profile").display()
        ))
        .args(["--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("file://{}", frame.display()))
        .output()
        .expect("the browser runs");
    let dom = String::from_utf8_lossy(&dom.stdout).into_owned();
    let width = dom
        .split("<title>width ")
        .nth(1)
        .and_then(|rest| rest.split('<').next());
    let width: u32 = width
        .and_then(|width| width.parse().ok())
        .unwrap_or_else(|| panic!("{dom}"));
    assert!(width <= 360, "the page is {width} wide");
}

#[test]
fn the_risk_of_each_class_is_told() {
    let fixture = Fixture::with_baseline();
    let check = |path: &str, text: &str, level: &str, class: &str, scope: &str| {
        let before = fs::read_to_string(fixture.root().join(path)).ok();
        fixture.write(path, text);
        let (code, json) = fixture.json(&["risk"]);
        let file = &json["risk"]["files"][0];
        let found = (code, &file["path"], &file["level"], &file["class"]);
        assert_eq!(
            found,
            (0, &path.into(), &level.into(), &class.into()),
            "{json:#}"
        );
        assert_eq!(json["risk"]["scope"].to_string().replace('"', ""), scope);
        match before {
            Some(before) => fixture.write(path, &before),
            None => fs::remove_file(fixture.root().join(path)).expect("removed"),
        }
    };
    let alpha = fixture.read("alpha/src/lib.rs");
    let lib = "alpha/src/lib.rs";
    let with = |from: &str, to: &str| alpha.replace(from, to);
    let both = "{packages:[alpha,beta]}";
    check(
        lib,
        &with("    a + b\n", "    b + a\n"),
        "medium",
        "code",
        both,
    );
    check(
        lib,
        &with("a + b\n", "unsafe { f(a, b) }\n"),
        "critical",
        "unsafe code",
        both,
    );
    check(
        lib,
        &with("(a: i32, b: i32)", "(a: i64, b: i64)"),
        "high",
        "public API",
        both,
    );
    check(
        lib,
        &with("add(7, 0), 7", "add(0, 7), 7"),
        "medium",
        "tests only",
        "{packages:[alpha]}",
    );
    check(
        "beta/build.rs",
        "fn main() {}\n",
        "critical",
        "build script",
        "{packages:[beta]}",
    );
    check(
        "Cargo.lock",
        "# other\n",
        "critical",
        "lockfile",
        "workspace",
    );
    check(
        "rust-toolchain.toml",
        "",
        "critical",
        "toolchain",
        "workspace",
    );
    check(
        "scripts/run.sh",
        "true\n",
        "high",
        "unknown file",
        "workspace",
    );
    check("README.md", "words\n", "low", "documentation", "null");
    let text = {
        fixture.edit(lib, "    a + b\n", "    b + a\n");
        fixture.palisade(&["risk"]).out
    };
    assert!(text.contains("1 of 3 packages depends on alpha"), "{text}");
    assert!(text.contains("1. tests of what changed: alpha"), "{text}");
    assert!(
        text.contains("2. tests of what depends on it: beta"),
        "{text}"
    );
}

#[test]
fn a_quarantined_test_still_runs_and_is_still_reported() {
    let fixture = Fixture::new();
    let body = fixture.flaky_body("half", 2, &[1]);
    fixture.add_test("gamma", "flips", &body);
    fixture.commit("a flaky test");
    let test = "gamma/lib/tests::flips";
    // The word of earlier versions.
    assert_eq!(
        fixture
            .palisade(&["flaky", "hunt", test, "--runs", "4"])
            .code,
        1
    );
    let quarantine = [
        "flaky",
        "quarantine",
        test,
        "--owner",
        "ada",
        "--reason",
        "race",
    ];
    assert_eq!(fixture.palisade(&quarantine).code, 0);
    // The fifth run passes, the sixth fails.
    assert_eq!(fixture.palisade(&["test", "--package", "gamma"]).code, 0);
    let (code, report) = fixture.json(&["test", "--package", "gamma"]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["failures"][0]["excuse"], "in quarantine, ada: race");
}

#[test]
fn the_memory_moves_to_another_clone_as_json_lines() {
    let fixture = Fixture::with_baseline();
    let exported = fixture.palisade(&["store", "export"]);
    let file = fixture.outside("runs.jsonl");
    fs::write(&file, &exported.out).expect("written");
    fs::remove_dir_all(fixture.root().join(".palisade")).expect("removed");
    let import = fixture.palisade(&["store", "import", &file.display().to_string()]);
    assert!(
        import.out.contains("read 2 records"),
        "{}{}",
        import.out,
        import.err
    );
    let shown = fixture.palisade(&["baseline", "show"]);
    assert!(
        shown.out.contains("alpha/doc/alpha/src/lib.rs - add"),
        "{}",
        shown.out
    );
    assert!(
        shown
            .out
            .contains("6 of 6 tests pass, 0 fail, 1 ignored; branch main"),
        "{}",
        shown.out
    );
    let report = fixture.check(&[], 0, &[]);
    assert_eq!(report["candidate"]["source"]["origin"], "store");
    assert_eq!(fixture.palisade(&["baseline", "diff"]).code, 0);
}
