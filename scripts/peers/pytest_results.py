"""Writes what happened to each test of pytest to the file `$PEERS_RESULTS`, as lines of JSON."""

import json
import os


def write(name: str, report, **more) -> None:
    if report.when != "call" and report.outcome == "passed":
        return
    text = "" if report.passed else str(report.longrepr)
    # The lines with the exception, or all if there are none.
    why = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    line = {
        "name": name,
        "outcome": report.outcome,
        "why": " ".join(why or [text[-300:]])[:1000],
        "output": "" if report.passed else report.capstdout[-3000:],
        **more,
    }
    with open(os.environ["PEERS_RESULTS"], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
