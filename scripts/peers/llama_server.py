#!/usr/bin/env python3
"""Stand in for `llama-server` in llama.cpp's own tests: runs `bitnet serve` instead.

Translates the flags that have a counterpart. Flags that only tune llama.cpp's engine are
dropped. A test that needs a feature or a model that is not here ends at once with status 1,
so that it fails instead of passing for a wrong reason. `$BITNET` is the program.
"""

import os
import sys

# Flags without a value that change nothing that the tests could see.
DROPPED = {
    "--offline",
    "--cont-batching",
    "--jinja",
    "--no-jinja",
    "--metrics",
    "--embedding",
    "--slots",
    "--no-slots",
    "--verbose",
    "--swa-full",
    "--no-mmproj",
}
# The same, with a value.
DROPPED_WITH_VALUE = {
    "--hf-file",
    "--batch-size",
    "--ubatch-size",
    "--n-gpu-layers",
    "--cache-ram",
    "-fa",
    "-ctk",
    "-ctv",
    "--tags",
    "--slot-save-path",
}
RENAMED = {
    "--port": "--port",
    "--host": "--host",
    "--temp": "--temp",
    "--seed": "--seed",
    "--n-predict": "--max-tokens",
    "--threads": "--threads",
    "--alias": "--alias",
    "--parallel": "--parallel",
    "--chat-template": "--chat-template",
    "--chat-template-file": "--chat-template",
}
# The built-in model takes the place of these: generation and embeddings of any text. A
# router has no model.
MODELS = ("ggml-org/test-model-stories260K", "ggml-org/models", None)
# Its context.
MAX_CONTEXT = 1024


def fail(text: str) -> None:
    sys.exit(f"error: {text}")


def main() -> None:
    flags: dict[str, str] = {}
    options = ["serve", "--lenient", "--drain", "1"]
    rest = iter(sys.argv[1:])
    for flag in rest:
        if flag in DROPPED:
            continue
        if flag in ("--kv-unified", "--no-ui"):
            flags[flag] = ""
            continue
        value = next(rest, None)
        if value is None:
            fail(f"{flag} has no counterpart")
        if flag in RENAMED:
            options += [RENAMED[flag], value]
        elif flag == "--api-key":
            # A pipe is the shortest file of keys.
            read, write = os.pipe()
            os.write(write, value.encode())
            os.close(write)
            os.set_inheritable(read, True)
            options += ["--api-key-file", f"/dev/fd/{read}"]
        elif flag == "--cors-origins":
            for origin in value.split(","):
                options += ["--cors-origin", origin.strip()]
        elif flag == "--pooling" and value == "last":
            # As `bitnet` does.
            continue
        elif flag == "--reasoning" and value in ("on", "off", "auto"):
            # llama-server lets a template think unless it is told not to.
            thinking = "false" if value == "off" else "true"
            options += ["--chat-template-kwargs", f'{{"enable_thinking": {thinking}}}']
        elif flag in ("--hf-repo", "--ctx-size"):
            flags[flag] = value
        elif flag not in DROPPED_WITH_VALUE:
            fail(f"{flag} has no counterpart")
        if flag == "--parallel":
            flags[flag] = value
    if flags.get("--hf-repo") not in MODELS:
        fail(f"there is no model {flags.get('--hf-repo')}")
    if "--no-ui" in flags:
        fail("--no-ui has no counterpart")
    if "--max-tokens" not in options:
        # llama-server has no limit.
        options += ["--max-tokens", "-1"]
    if "--cors-origin" not in options:
        # llama-server lets the pages of every site in.
        options += ["--cors-origin", "*"]
    if size := flags.get("--ctx-size"):
        # llama-server divides its context among its slots; here each request has all.
        n_slots = 1 if "--kv-unified" in flags else int(flags.get("--parallel", "4"))
        options += ["--context", str(min(int(size) // n_slots, MAX_CONTEXT))]
    program = os.environ["BITNET"]
    os.execv(program, [program, *options])


if __name__ == "__main__":
    main()
