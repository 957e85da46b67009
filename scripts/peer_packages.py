"""Packages of PyPI that scripts run beside bitnet: virtual environments and sources."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

# Pinned: results of different releases are not comparable.
LLAMA_CPP = "llama-cpp-python==0.3.36"


def fail(text: str) -> None:
    sys.exit(f"error: {text}")


def call(*command: object, **options) -> None:
    run = subprocess.run([str(part) for part in command], **options)
    if run.returncode != 0:
        fail(f"{' '.join(map(str, command))} ended with status {run.returncode}")


def venv(folder: Path, *packages: object) -> Path:
    """Returns Python of a virtual environment with packages."""
    python = folder / "bin" / "python"
    stamp = folder / "installed"
    wanted = "\n".join(map(str, packages))
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {folder.name} …", flush=True)
        call(sys.executable, "-m", "venv", "--clear", folder)
        if packages:
            call(python, "-m", "pip", "install", "--quiet", *packages)
        stamp.write_text(wanted)
    return python


def source_package(work: Path, package: str) -> Path:
    """Returns the folder of a source package of PyPI."""
    name = package.split("==")[0]
    python = venv(work / "pip")
    found = work / "sources" / package
    if not found.exists():
        print(f"fetching {package} …", flush=True)
        archives = work / "archives" / package
        shutil.rmtree(archives, ignore_errors=True)
        command = ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name]
        call(python, *command, "--dest", archives, package)
        (archive,) = archives.glob("*.tar.gz")
        unpacked = archives / "unpacked"
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
        (folder,) = unpacked.iterdir()
        found.parent.mkdir(exist_ok=True)
        folder.rename(found)
    return found


def llama_server(work: Path) -> Path:
    """Returns llama.cpp's server, built from the source package of llama-cpp-python. That
    takes about ten minutes and needs a C++ compiler."""
    program = work / "llama-server" / "bin" / "llama-server"
    if not program.exists():
        source = source_package(work, LLAMA_CPP) / "vendor" / "llama.cpp"
        tools = venv(work / "cmake", "cmake", "ninja").parent
        print("building llama-server, for minutes …", flush=True)
        options = ["CMAKE_BUILD_TYPE=Release", "BUILD_SHARED_LIBS=OFF", "LLAMA_CURL=OFF",
                   "LLAMA_OPENSSL=OFF", "LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_EXAMPLES=OFF",
                   f"CMAKE_MAKE_PROGRAM={tools / 'ninja'}"]
        cmake, folder = tools / "cmake", work / "llama-server"
        definitions = [f"-D{option}" for option in options]
        call(cmake, "-S", source, "-B", folder, "-G", "Ninja", *definitions)
        call(cmake, "--build", folder, "--target", "llama-server")
    return program
