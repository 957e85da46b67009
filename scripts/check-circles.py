#!/usr/bin/env python3
"""Fails if the modules of a crate have a dependency cycle.

A module here is a top-level module of a crate: `foo.rs` and all files below `foo/` are
`foo`. An edge is a `crate::foo`, or an equivalent `super::foo`, outside of tests. Methods
that a module adds to a type of another module are not detected.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_MODULES = {"lib", "main"}
# Crates that still have cycles.
PENDING = {"palisade"}
TESTS = re.compile(r"^#\[cfg\(test\)\]\nmod \w+ \{.*?^\}", re.M | re.S)


def arrows(src):
    """Returns what each module of a crate imports: {module: {modules}}."""
    files = {}
    for path in src.rglob("*.rs"):
        name = path.relative_to(src).parts[0].removesuffix(".rs")
        if name not in NOT_MODULES and path.stem != "tests":
            code = re.sub(r"//.*", "", TESTS.sub("", path.read_text()))
            if path in (src / f"{name}.rs", src / name / "mod.rs"):
                code = re.sub(r"(?<!::)\bsuper::", "crate::", code)
            files.setdefault(name, []).append(code)
    found = {}
    for name, texts in files.items():
        code = "\n".join(texts)
        used = set(re.findall(r"\bcrate::(\w+)", code))
        for group in re.findall(r"\bcrate::\{(.*?)\};", code, re.S):
            used |= set(re.findall(r"(?:^|[,\s])(\w+)", re.sub(r"\{[^{}]*\}", "", group)))
        found[name] = (used & files.keys()) - {name}
    return found


def circles(found):
    """Returns the strongly connected components of more than one module."""
    def reach(name):
        seen, todo = set(), [name]
        while todo:
            for other in found[todo.pop()] - seen:
                seen.add(other)
                todo.append(other)
        return seen
    below = {name: reach(name) for name in found}
    return {frozenset(b for b in below[a] if a in below[b]) for a in found if a in below[a]}


failed = False
for src in sorted(ROOT.glob("crates/*/src")):
    if src.parent.name in PENDING:
        continue
    found = arrows(src)
    for circle in circles(found):
        failed = True
        print(f"{src.parent.name}: {len(circle)} of {len(found)} modules in a circle")
        for name in sorted(circle):
            print(f"  {name} -> {', '.join(sorted(found[name] & circle))}")
sys.exit(failed)
