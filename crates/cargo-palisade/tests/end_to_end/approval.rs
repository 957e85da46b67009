//! A change that a second person must have validated.

use crate::fixture::Fixture;

#[test]
fn a_critical_change_needs_somebody_else() {
    let fixture = Fixture::with_baseline();
    fixture.git(&["config", "user.name", "Ada"]);
    fixture.git(&["config", "user.email", "ada@example.org"]);
    fixture.write("palisade.toml", "[approval]\nfrom = \"critical\"\n");
    fixture.commit("a policy");
    fixture.palisade(&["check", "--all"]);
    // Unsafe code is Critical.
    fixture.edit(
        "gamma/src/lib.rs",
        "pub fn one() -> u8 {\n    1\n",
        "pub fn one() -> u8 {\n    unsafe { std::mem::transmute::<i8, u8>(1) }\n",
    );
    fixture.check(&[], 1, &[("approval", "not_approved")]);
    // The author alone cannot lift that.
    let own = fixture.palisade(&["approve", "--note", "looks fine"]);
    assert_eq!(own.code, 2, "{}", own.out);
    assert!(
        own.err.contains("Ada <ada@example.org>, who is an author"),
        "{}",
        own.err
    );
    let other = [
        "approve",
        "--by",
        "Ben <ben@example.org>",
        "--note",
        "ran it on the board",
    ];
    assert_eq!(fixture.palisade(&other).code, 0);
    let report = fixture.check(&[], 0, &[("approval", "approved")]);
    let reason = &report["findings"][0]["reason"];
    assert_eq!(reason, "Ben <ben@example.org>: ran it on the board");
    assert!(
        fixture
            .palisade(&["report"])
            .out
            .contains("ran it on the board")
    );
    // It was that content, and no other.
    fixture.edit("gamma/src/lib.rs", "//! Counts.", "//! Counts, one by one.");
    fixture.check(&[], 1, &[("approval", "not_approved")]);
}
