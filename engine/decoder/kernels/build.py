"""Compiles the kernels on the machine that runs them: two seconds once, then a file in the cache.

The compiler knows this processor's vector units, which a wheel built elsewhere would not. The file's name is a digest
of the sources, the compiler and the processor, so that a shared home directory serves different machines.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent
CACHE_VARIABLE = "TSUGIKI_KERNEL_CACHE"

# Sums may be reordered and largest numbers chosen without a branch, which is what makes them vector code; the processor
# carries a NaN through all the same. Not -ffast-math itself: linking with it turns off denormal numbers for the whole
# process.
OPTIONS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-fPIC",
    "-shared",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-fassociative-math",
    "-ffinite-math-only",
    "-freciprocal-math",
    "-ffp-contract=fast",
)


@cache
def compiled_for(number: str) -> ctypes.CDLL | None:
    """The kernels for one number format, `float` or `bf16`; None, and a line on stderr, where they cannot be built."""
    compiler = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if compiler is None:
        _complain("there is no C++ compiler")
        return None
    try:
        return ctypes.CDLL(str(_built(compiler, number)))
    except subprocess.CalledProcessError as error:
        _complain(f"{compiler} refused them: {error.stderr.decode(errors='replace').strip()[:500]}")
    except OSError as error:
        _complain(str(error))
    return None


def _complain(reason: str) -> None:
    sys.stderr.write(f"Training goes on without native kernels, more slowly: {reason}\n")


def _built(compiler: str, number: str) -> Path:
    folder = _cache_folder()
    file = folder / f"kernels-{number}-{_digest(compiler)}.so"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Compiled aside and moved into place: whoever builds at the same time moves the same content there.
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            made = Path(aside) / file.name
            command = [
                compiler,
                *OPTIONS,
                f"-DNUMBER={number}",
                *map(str, sorted(SOURCES.glob("*.cpp"))),
                "-o",
                str(made),
            ]
            subprocess.run(command, check=True, capture_output=True)
            made.replace(file)
    return file


def _cache_folder() -> Path:
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tsugiki"


def _digest(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True).stdout
    parts = [file.read_bytes() for file in sorted(SOURCES.glob("*.cpp")) + sorted(SOURCES.glob("*.h"))]
    parts += [version, " ".join(OPTIONS).encode(), _processor().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> str:
    """What -march=native depends on: the model and its flags as Linux lists them, elsewhere the machine's name."""
    listing = Path("/proc/cpuinfo")
    if not listing.is_file():
        return platform.machine() + platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    lines = {line for line in listing.read_text().splitlines() if line.startswith(wanted)}
    return "\n".join(sorted(lines))
