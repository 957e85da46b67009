"""The process: Ctrl-C, memory, the program, errors of loading."""

from __future__ import annotations

import gc
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from conftest import PROMPT, ROOT

import bitnet_rust
from bitnet_rust import BitnetError, ClosedError, Model, ModelError, ModelOptionError

MACHINE = platform.machine()
QEMU = shutil.which("qemu-x86_64-static")


def run(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *args, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_ctrl_c_ends_a_generation_and_the_model_goes_on(model: Model) -> None:
    pid = os.getpid()
    # What a shell starts in the background ignores Ctrl-C.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.5, lambda: os.kill(pid, signal.SIGINT))
    timer.start()
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            while True:  # One text may be done before.
                model.generate(PROMPT, max_tokens=None, ignore_eos=True, stop="\0")
    finally:
        signal.signal(signal.SIGINT, handler)
    timer.join()
    assert time.monotonic() - start < 5
    assert model.generate(PROMPT, temperature=0, max_tokens=1) == " great"


def test_memory_is_flat_over_a_thousand_generations(model: Model) -> None:
    def resident() -> int:
        status = Path("/proc/self/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) * 1024

    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc: the resident memory is not known")

    def texts(n: int) -> None:
        for seed in range(n):
            model.generate(PROMPT, seed=seed, max_tokens=4)
            if seed % 100 == 0:
                model.logits(PROMPT)
                model.generate(PROMPT, max_tokens=9, stream=True).close()

    texts(200)
    gc.collect()
    before = resident()
    texts(1000)
    gc.collect()
    grown = resident() - before
    assert grown < 2 << 20, f"{grown} bytes more after 1000 generations"


def test_others_run_while_a_text_is_computed(model: Model) -> None:
    n_steps, is_done = 0, threading.Event()

    def generate() -> None:
        model.generate(PROMPT, max_tokens=200, ignore_eos=True, seed=1)
        is_done.set()

    thread = threading.Thread(target=generate)
    thread.start()
    while not is_done.is_set():
        n_steps += 1
        time.sleep(0.001)
    thread.join()
    # With Python's lock held, there would be one or two.
    assert n_steps > 10


def test_the_module_is_the_program() -> None:
    command = [sys.executable, "-m", "bitnet_rust"]
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"bitnet {bitnet_rust.__version__}\n"
    story = ["run", "--quiet", "--temp", "0", "-n", "4", PROMPT]
    told = subprocess.run([*command, *story], capture_output=True, text=True, check=True)
    assert told.stdout == f"{PROMPT} great noise of shouting\n"
    script = Path(sys.executable).with_name("bitnet")
    told = subprocess.run([script, *story], capture_output=True, text=True, check=True)
    assert told.stdout == f"{PROMPT} great noise of shouting\n"
    wrong = subprocess.run([*command, "run", "--nothing"], capture_output=True, check=False)
    assert wrong.returncode == 2
    missing = subprocess.run([*command, "run", "-m", "no.gguf", "x"], capture_output=True)
    assert missing.returncode == 1


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no.gguf"):
        Model.load("no.gguf")
    with pytest.raises(ModelError) as missing:
        Model.load("owner/name")
    assert missing.value.hint is not None
    assert "pull owner/name" in missing.value.hint
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(ModelError, match="damaged.gguf"):
        Model.load(damaged)
    for wrong in ({"n_ctx": 0}, {"threads": -1}, {"device": "abacus"}, {"kernel": "none"}):
        with pytest.raises(ModelOptionError):
            Model.load(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="more than the limit of 1.0 MiB"):
        Model.load(memory_limit="1MiB")
    with pytest.raises(ModelError):
        Model.load(device="cuda")
    assert issubclass(ModelOptionError, (BitnetError, ValueError))


def test_a_model_of_a_file_is_loaded(model: Model) -> None:
    file = ROOT / "models/storyteller-tiny"
    with Model.load(file, n_ctx=128, threads=1, memory_limit="200MiB", kernel="avx2") as tiny:
        assert tiny.n_ctx == 128
        assert tiny.name == "storyteller-tiny"
        assert tiny.kernel == "x86_64-i2xi8-avx2"
        assert tiny.threads == 1
        text = tiny.generate(PROMPT, temperature=0, max_tokens=4)
        assert len(text.ids) == 4
        assert tiny.fingerprint != model.fingerprint


def test_a_closed_model_says_so() -> None:
    model = Model.load(threads=1)
    stream = model.generate(PROMPT, max_tokens=None, ignore_eos=True, stream=True)
    next(stream)
    sequence = model.sequence(PROMPT)
    model.close()
    model.close()
    with pytest.raises(ClosedError):
        model.generate(PROMPT)
    with pytest.raises(ClosedError):
        sequence.append([1])
    # What was computed may still be read.
    with pytest.raises(BitnetError):
        stream.text()


def two_models(options: str) -> str:
    """Returns a program that loads a model twice and prints the warnings."""
    return (
        "import warnings; from bitnet_rust import Model\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(2):\n"
        f"        model = Model.load({options})\n"
        f"        assert model.generate({PROMPT!r}, temperature=0, max_tokens=1) == ' great'\n"
        "print([str(w.message) for w in caught])"
    )


def test_the_scalar_kernel_warns_once() -> None:
    done = run(two_models("kernel='scalar', threads=1"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("scalar kernel, as asked for") == 1


@pytest.mark.skipif(QEMU is None or MACHINE != "x86_64", reason="needs qemu-x86_64-static")
def test_a_processor_without_avx2_warns_once() -> None:
    # The interpreter itself: that of an environment may be a script.
    path = f"import sys; sys.path[:] = {sys.path!r}\n"
    found = {}
    for processor in ["Nehalem", "Haswell"]:
        command = [str(QEMU), "-cpu", processor, os.path.realpath(sys.executable), "-c"]
        command.append(path + two_models("threads=1"))
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        found[processor] = done.stdout
    assert found["Nehalem"].count("scalar kernel, this processor has") == 1
    assert found["Haswell"] == "[]\n"


def test_a_process_that_ends_while_it_computes_ends_well() -> None:
    code = (
        "import threading; from bitnet_rust import Model\n"
        "model = Model.load(threads=1)\n"
        "f = lambda ids, logits: None\n"
        f"model.generate({PROMPT!r}, max_tokens=None, logits_processor=f, stream=True)\n"
        "print('end')"
    )
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_a_forked_process_is_told_to_load_again(model: Model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            model.generate(PROMPT, max_tokens=1)
        except ClosedError as error:
            code = 0 if "forked" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
