#!/usr/bin/env python3
"""Measure llama.cpp like `bitnet bench --json` measures bitnet, with the same flags.

Calls llama.cpp's C functions through `llama-cpp-python`: batches of fixed
tokens, no sampling, no tokenizer, default settings (f16 KV cache, flash
attention as selected by llama.cpp). Like in `llama-bench`, each test has its
own context and a short warm-up pass.

Example:
  llama_cpp_bench.py -m model.gguf -p 128,512 -n 64 -t 2
"""

import argparse
import ctypes
import json
import resource
import statistics
import sys
import time
from pathlib import Path

import llama_cpp as llama

# Tokens per call, the default of llama.cpp.
BATCH = 2048
WARM_UP = 32


@llama.llama_log_callback
def log(level, text, _):
    """Prints only errors (level 4)."""
    if level == 4:
        print("llama.cpp: " + text.decode(errors="replace").strip(), file=sys.stderr)


class Context:
    """A llama.cpp context and its input batch."""

    def __init__(self, model, threads: int, length: int, sequences: int):
        params = llama.llama_context_default_params()
        params.n_ctx = length * sequences
        params.n_batch = BATCH
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        self.vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        self.ctx = llama.llama_init_from_model(model, params)
        if not self.ctx:
            sys.exit(f"error: llama.cpp refuses a context of {length} x {sequences} tokens")
        self.memory = llama.llama_get_memory(self.ctx)
        self.batch = llama.llama_batch_init(BATCH, 0, 1)
        self.sequences = sequences
        self.length = 0

    def close(self) -> None:
        llama.llama_batch_free(self.batch)
        llama.llama_free(self.ctx)

    def forward(self, n_tokens: int, logits: bool) -> float:
        """Appends `n_tokens` tokens to every sequence, with `logits` of the last one if set.

        Returns the seconds spent in llama.cpp, without filling the batch, which is slow in
        Python.
        """
        seconds = 0.0
        rows = [(self.length + i, s) for s in range(self.sequences) for i in range(n_tokens)]
        last = self.length + n_tokens - 1
        for first in range(0, len(rows), BATCH):
            part = rows[first : first + BATCH]
            self.batch.n_tokens = len(part)
            for i, (position, sequence) in enumerate(part):
                self.batch.token[i] = position * 61 % self.vocab
                self.batch.pos[i] = position
                self.batch.n_seq_id[i] = 1
                self.batch.seq_id[i][0] = sequence
                self.batch.logits[i] = logits and position == last
            start = time.perf_counter()
            code = llama.llama_decode(self.ctx, self.batch)
            llama.llama_synchronize(self.ctx)
            seconds += time.perf_counter() - start
            if code != 0:
                sys.exit(f"error: llama_decode of {len(part)} tokens at {self.length}: code {code}")
        self.length += n_tokens
        return seconds

    def truncate(self, length: int) -> None:
        for sequence in range(self.sequences):
            llama.llama_memory_seq_rm(self.memory, sequence, length, -1)
        self.length = length

    def fill(self, depth: int, state: Path | None) -> None:
        """Fills every sequence to `depth` tokens, from the state file if it exists."""
        tokens = (llama.llama_token * depth)()
        if state and state.exists():
            count = ctypes.c_size_t()
            for sequence in range(self.sequences):
                if not llama.llama_state_seq_load_file(
                    self.ctx, bytes(state), sequence, tokens, depth, ctypes.byref(count)
                ):
                    sys.exit(f"error: llama.cpp cannot read the state {state}")
            self.length = depth
            return
        self.forward(depth, False)
        if state:
            llama.llama_state_seq_save_file(self.ctx, bytes(state), 0, tokens, depth)


def measure(model, args, threads: int, test: str, n: int, depth: int, batch: int) -> dict:
    context = Context(model, threads, depth + max(n, WARM_UP), batch)
    if depth:
        context.fill(depth, args.state)
    warm_up = 1 if test == "tg" else min(n, WARM_UP)
    context.forward(warm_up, True)
    rates = []
    for _ in range(args.repetitions):
        context.truncate(depth)
        steps = [1] * n if test == "tg" else [n]
        rates.append(n * batch / sum(context.forward(step, True) for step in steps))
    context.close()
    return {
        "test": f"{test}{n}",
        "threads": threads,
        "batch": batch,
        "depth": depth,
        "tok_s": statistics.mean(rates),
        "tok_s_sd": statistics.stdev(rates) if len(rates) > 1 else 0.0,
        # KiB on Linux, bytes on macOS.
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024),
    }


def numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", required=True, type=Path)
    parser.add_argument("-p", "--prompt", type=numbers, default=[512], metavar="N,…")
    parser.add_argument("-n", "--generate", type=numbers, default=[128], metavar="N,…")
    parser.add_argument("-d", "--depth", type=numbers, default=[0], metavar="N,…")
    parser.add_argument("-b", "--batch", type=numbers, default=[1], metavar="N,…")
    parser.add_argument("-t", "--threads", type=numbers, required=True, metavar="N,…")
    parser.add_argument("-r", "--repetitions", type=int, default=3, metavar="N")
    parser.add_argument(
        "--state", type=Path, help="keep the filled context of -d here, and take it from here"
    )
    args = parser.parse_args()

    llama.llama_log_set(log, None)
    llama.llama_backend_init()
    start = time.perf_counter()
    model = llama.llama_model_load_from_file(
        bytes(args.model), llama.llama_model_default_params()
    )
    if not model:
        sys.exit(f"error: llama.cpp cannot load {args.model}")
    load_s = time.perf_counter() - start
    rows = [
        measure(model, args, threads, test, n, depth, batch)
        for threads in args.threads
        for depth in args.depth
        for batch in args.batch
        for test, lengths in (("pp", args.prompt), ("tg", args.generate))
        for n in lengths
        if n > 0
    ]
    llama.llama_model_free(model)
    system = llama.llama_print_system_info().decode()
    engine = f"llama.cpp of llama-cpp-python {llama.__version__}"
    print(json.dumps({"engine": engine, "system": system, "load_s": load_s, "rows": rows}))


if __name__ == "__main__":
    main()
