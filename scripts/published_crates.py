"""Workspaces that nobody made for the guard: published crates, put into a git repository.

Used by `test-public-workspaces` and `prove-recall`. Needs the registry, through `cargo fetch`.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

LIMIT = 900


def run(command, folder, limit=LIMIT, check=True, env=None):
    """Runs a command to its end; returns exit code, output, errors and seconds."""
    started = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=limit, env=env,
            stdin=subprocess.DEVNULL,
        )
        code, out, err = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired:
        code, out, err = "time-out", "", f"{command} ran past {limit} s"
    seconds = time.monotonic() - started
    if check and code != 0:
        sys.exit(f"{' '.join(map(str, command))} in {folder} ended with {code}:\n{out}{err}")
    return code, out, err, seconds


def sources(crates, scratch):
    """The published sources of crates, NAME or NAME@VERSION, from Cargo's own copies:
    folder and version by name."""
    (scratch / "src").mkdir(parents=True)
    (scratch / "src/lib.rs").write_text("")
    wanted = [crate.partition("@") for crate in crates]
    lines = "".join(f'{name} = "{f"={version}" if version else "*"}"\n' for name, _, version in wanted)
    (scratch / "Cargo.toml").write_text(
        '[package]\nname = "fetches"\nversion = "0.0.0"\nedition = "2021"\n\n'
        f"[dependencies]\n{lines}\n[workspace]\n"
    )
    run(["cargo", "fetch", "--quiet"], scratch)
    _, out, _, _ = run(["cargo", "metadata", "--format-version", "1", "--offline"], scratch)
    packages = json.loads(out)["packages"]
    found = {}
    for name, _, version in wanted:
        # Of two versions in one graph, the newest is the one that was asked for.
        same = [p for p in packages if p["name"] == name and version in ("", p["version"])]
        newest = max(same, key=lambda p: [int(part) for part in p["version"].split("-")[0].split("+")[0].split(".")])
        found[name] = Path(newest["manifest_path"]).parent, newest["version"]
    return found


class Workspace:
    """A repository with the sources of a crate, or of several as the members of one workspace,
    and the guard that is tried there."""

    def __init__(self, program, home, crates):
        self.program = program
        self.name = "+".join(crate.partition("@")[0] for crate in crates)
        self.root = home / self.name
        found = sources(crates, home / f"{self.name}.fetch")
        self.title = ", ".join(f"{name} {version}" for name, (_, version) in found.items())
        self.copy({name: source for name, (source, _) in found.items()})
        (self.root / ".gitignore").write_text("/target\n/.palisade\n")
        self.env = dict(os.environ, PALISADE_CACHE=str(home / "cache"))
        for variable in ("CARGO_TARGET_DIR", "PALISADE_STORE", "RUSTFLAGS"):
            self.env.pop(variable, None)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "Ada")
        self.git("config", "user.email", "ada@example.org")
        run(["cargo", "generate-lockfile", "--quiet"], self.root, env=self.env)
        self.commit("publish")

    def copy(self, found):
        """Copies one crate as the root of the repository, or several as members, each of which
        is what the others depend on."""
        left_out = shutil.ignore_patterns(
            ".cargo-ok", ".cargo_vcs_info.json", "Cargo.toml.orig", "Cargo.lock"
        )
        if len(found) == 1:
            (source,) = found.values()
            shutil.copytree(source, self.root, ignore=left_out)
            manifest = self.root / "Cargo.toml"
            text = manifest.read_text()
            if "[workspace]" not in text:
                manifest.write_text(text + "\n[workspace]\n")
            return
        for name, source in found.items():
            shutil.copytree(source, self.root / name, ignore=left_out)
        members = ", ".join(f'"{name}"' for name in found)
        patches = "".join(f'{name} = {{ path = "{name}" }}\n' for name in found)
        (self.root / "Cargo.toml").write_text(
            f'[workspace]\nmembers = [{members}]\nresolver = "2"\n\n[patch.crates-io]\n{patches}'
        )

    def git(self, *args):
        return run(["git", *args], self.root)[1].strip()

    def commit(self, message):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)

    def note(self, text):
        """A commit that changes no code."""
        path = self.libraries()[0]
        path.write_text(path.read_text() + f"\n// {text}\n")
        self.commit(text)

    def libraries(self):
        """The file that each library begins with."""
        command = ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"]
        packages = json.loads(run(command, self.root, env=self.env)[1])["packages"]
        kinds = {"lib", "rlib", "proc-macro"}
        targets = [target for package in packages for target in package["targets"]]
        return [Path(t["src_path"]) for t in targets if kinds & set(t["kind"])]

    def shipped_files(self):
        """The Rust files of the libraries, without build scripts and what only tests need."""
        elsewhere = {"target", "tests", "benches", "examples", "fuzz"}
        for library in self.libraries():
            for path in sorted(library.parent.rglob("*.rs")):
                parts = set(path.relative_to(self.root).parts)
                if not elsewhere & parts and path.name != "build.rs":
                    yield path

    def palisade(self, *args):
        """Exit code, JSON document and seconds of a command."""
        command = [self.program, "palisade", *args, "--json"]
        code, out, err, seconds = run(command, self.root, check=False, env=self.env)
        try:
            document = json.loads(out)
        except ValueError:
            document = {"error": err.strip()}
        return code, document, seconds


def guard(chosen):
    """The program at a path; built if none is given."""
    if chosen:
        return str(Path(chosen).resolve())
    root = Path(__file__).resolve().parent.parent
    run(["cargo", "build", "--release", "--quiet", "-p", "cargo-palisade"], root, limit=3600)
    target = os.environ.get("CARGO_TARGET_DIR", root / "target")
    return str(Path(target) / "release/cargo-palisade")
