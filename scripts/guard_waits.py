#!/usr/bin/env python3
"""Guards the waits of a WebAssembly module against a defect of V8.

    scripts/guard_waits.py MODULE

V8's compiler of first resort, Liftoff, translates `memory.atomic.wait32` wrongly in Node 20
(V8 11.3), but not in Chromium 148: it stores the address, which has 4 bytes on its stack, as
8, and so overwrites the value below with zero. If no operand is there, this is the last local
variable of the function, which may be live: the saved stack pointer, for example. This adds a
variable that is not used at the end of each function with a wait.
"""

import sys
from pathlib import Path

CODE_SECTION = 10
I32 = 0x7F
# `memory.atomic.wait32` with its alignment. Other bytes may happen to be the same: then a
# function gets a variable in vain.
WAIT = bytes([0xFE, 0x01, 0x02])


def read(data: bytes, at: int) -> tuple[int, int]:
    """Returns the LEB128 number at `at` and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def number(value: int) -> bytes:
    """Returns a number in LEB128."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def with_variable(body: bytes) -> bytes:
    """Adds an i32 after the variables of a function."""
    n_groups, first = read(body, 0)
    at = first
    for _ in range(n_groups):
        _, at = read(body, at)
        # A type of one byte: modules of Rust have no others.
        if not 0x6F <= body[at] <= 0x7F:
            sys.exit(f"a variable has a type of several bytes, {body[at]:#x}")
        at += 1
    return number(n_groups + 1) + body[first:at] + number(1) + bytes([I32]) + body[at:]


def guard(module: bytes) -> tuple[bytes, int]:
    """Returns the module with guarded waits, and the number of changed functions."""
    if module[:8] != b"\0asm\1\0\0\0":
        sys.exit("not a WebAssembly module of version 1")
    out, at, n_changed = bytearray(module[:8]), 8, 0
    while at < len(module):
        section = module[at]
        size, start = read(module, at + 1)
        content = module[start : start + size]
        at = start + size
        if section == CODE_SECTION:
            count, end = read(content, 0)
            bodies = bytearray(number(count))
            for _ in range(count):
                size, start = read(content, end)
                end = start + size
                body = content[start:end]
                if WAIT in body:
                    body = with_variable(body)
                    n_changed += 1
                bodies += number(len(body)) + body
            content = bytes(bodies)
        out += bytes([section]) + number(len(content)) + content
    return bytes(out), n_changed


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    path = Path(sys.argv[1])
    module, n_changed = guard(path.read_bytes())
    if n_changed == 0:
        sys.exit(f"{path} has no waits")
    path.write_bytes(module)


if __name__ == "__main__":
    main()
