#!/usr/bin/env python3
"""Fails if modules depend on each other in a circle, or on a floor that they must not know.

Looked at are the modules of each crate, and those on each floor of a crate that has floors.
`foo.rs` and all files below `foo/` are `foo`. An edge is a path `crate::…`, or an equivalent
`super::foo` in the file of a module, outside of tests. Methods that a module adds to a type
of another module are not detected.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_MODULES = {"lib", "main", "mod"}
TESTS = re.compile(r"^#\[cfg\(test\)\]\nmod \w+ \{.*?^\}", re.M | re.S)
# What the floors of a crate may import, where that is less than no circle.
FLOORS = {
    "palisade": {
        "record": set(),
        "host": {"record"},
        "report": {"record"},
        "flow": {"record", "host", "report"},
    },
}


def arrows(folder, src):
    """Returns what each module in a folder imports of its siblings: {module: {modules}}."""
    prefix = "".join(f"{part}::" for part in folder.relative_to(src).parts)
    files = {}
    for path in folder.rglob("*.rs"):
        name = path.relative_to(folder).parts[0].removesuffix(".rs")
        if name in NOT_MODULES or path.stem == "tests":
            continue
        code = re.sub(r"//.*", "", TESTS.sub("", path.read_text()))
        if path in (folder / f"{name}.rs", folder / name / "mod.rs"):
            code = re.sub(r"(?<!::)\bsuper::", f"crate::{prefix}", code)
        files.setdefault(name, []).append(code)
    found = {}
    for name, texts in files.items():
        code = "\n".join(texts)
        used = set(re.findall(rf"\bcrate::{prefix}(\w+)", code))
        for group in re.findall(rf"\bcrate::{prefix}\{{(.*?)\}};", code, re.S):
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
    crate = src.parent.name
    floors = FLOORS.get(crate, {})
    for folder in [src, *(src / floor for floor in floors)]:
        found = arrows(folder, src)
        where = "/".join([crate, *folder.relative_to(src).parts])
        for circle in circles(found):
            failed = True
            print(f"{where}: {len(circle)} of {len(found)} modules in a circle")
            for name in sorted(circle):
                print(f"  {name} -> {', '.join(sorted(found[name] & circle))}")
        if folder == src:
            for name, allowed in floors.items():
                for other in sorted(found[name] & floors.keys() - allowed):
                    failed = True
                    print(f"{crate}: {name} imports {other}")
sys.exit(failed)
