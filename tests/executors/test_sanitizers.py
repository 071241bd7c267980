"""The C++ alone under the address, undefined-behaviour and thread sanitizers: random requests, a tiny decoder."""

from __future__ import annotations

import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trilens.executors.native.program import Op

SOURCES = Path(__file__).resolve().parents[2] / "csrc"
FILES = sorted(path.stem for path in SOURCES.glob("*.cpp") if path.stem != "bindings")  # that one needs Python
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"]
SETS = {
    "x86_64": {"kernels_avx2": AVX2, "kernels_avx512": AVX512},
    "aarch64": {"kernels_neon": ["-march=armv8.2-a+dotprod"]},
}
HERE: dict[str, list[str]] = SETS.get(platform.machine(), {})


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_random_requests_are_clean(sanitizer: str, tmp_path: Path) -> None:
    _check(tmp_path, ["-O1", "-g", f"-fsanitize={sanitizer}"], HERE, 100)


@pytest.mark.slow
def test_a_few_requests_are_clean(tmp_path: Path) -> None:
    """With the portable kernels only and without optimisation: a minute, where the others take several."""
    _check(tmp_path, ["-O0", "-fsanitize=address,undefined"], {}, 15)


def _check(folder: Path, flags: list[str], sets: dict[str, list[str]], requests: int) -> None:
    compiler = shutil.which("c++") or shutil.which("g++")
    assert compiler, "this test compiles C++: install a compiler (on Debian: apt install g++)"
    numbers = "".join(f"{op.name} = {op.value},\n" for op in Op)
    (folder / "ops.inl").write_text(numbers, "utf-8")  # as CMake makes it
    always = [
        f"-I{folder}",
        "-std=c++20",
        "-ffp-contract=off",
        "-fno-strict-aliasing",
        "-fno-sanitize-recover=all",
        "-pthread",
    ]
    sources = [*(SOURCES / f"{name}.cpp" for name in FILES), Path(__file__).with_name("native_checks.cpp")]

    def compiled(source: Path) -> str:
        made = str(folder / f"{source.stem}.o")
        own = sets.get(source.stem, [])
        subprocess.run([compiler, *always, *flags, *own, "-c", str(source), "-o", made], check=True)
        return made

    with ThreadPoolExecutor(2) as pool:  # the kernels first: they take longest
        objects = list(pool.map(compiled, sorted(sources, key=lambda s: not s.stem.startswith("kernels"))))
    program = str(folder / "checks")
    subprocess.run([compiler, *always, *flags, *objects, "-o", program], check=True)
    done = subprocess.run([program, str(requests)], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
