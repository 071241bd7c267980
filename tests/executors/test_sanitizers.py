"""The C++ alone under the address, undefined-behaviour and thread sanitizers: random requests, a tiny decoder."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "csrc"
FILES = [
    "cache",
    "engine",
    "rows",
    "products",
    "attention",
    "experts",
    "layout",
    "room",
    "sampling",
    "team",
    "kernels_portable",
    "kernels_avx2",
    "kernels_avx512",
]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"]
SETS = {"kernels_avx2": AVX2, "kernels_avx512": AVX512} if platform.machine() == "x86_64" else {}


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_random_requests_are_clean(sanitizer: str, tmp_path: Path) -> None:
    compiler = shutil.which("c++") or shutil.which("g++")
    assert compiler, "this test compiles C++: install a compiler (on Debian: apt install g++)"
    flags = ["-std=c++20", "-O1", "-g", "-ffp-contract=off", "-fno-strict-aliasing"]
    flags += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-pthread"]
    objects = []
    for source in [*(SOURCES / f"{name}.cpp" for name in FILES), Path(__file__).with_name("native_checks.cpp")]:
        objects.append(str(tmp_path / f"{source.stem}.o"))
        subprocess.run([compiler, *flags, *SETS.get(source.stem, []), "-c", str(source), "-o", objects[-1]], check=True)
    program = str(tmp_path / "checks")
    subprocess.run([compiler, *flags, *objects, "-o", program], check=True)
    done = subprocess.run([program, "100"], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
