"""The program `bitnet`: `python -m bitnet_rust run "Once upon a time"`."""

from __future__ import annotations

import sys

from . import _native


def main() -> int:
    """Runs the program with the arguments of this process. Returns its exit code."""
    return _native.main(["bitnet", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
