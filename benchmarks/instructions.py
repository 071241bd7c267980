"""Counts the instructions of the products for ARM and for AVX2 in an emulator, and writes docs/instructions.md.

    python benchmarks/instructions.py [--arm-compiler aarch64-linux-gnu-g++] [--compiler g++] [--page PAGE]

Needs a C++ compiler for each processor and QEMU's emulators of programs (qemu-aarch64-static, qemu-x86_64-static; on
Debian: apt install g++-aarch64-linux-gnu qemu-user-static). A clock says how fast a processor is; no clock of an ARM
processor was at hand, and a count is the same everywhere.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["-std=c++20", "-O3", "-ffp-contract=off", "-fno-strict-aliasing", "-static"]  # as in CMakeLists.txt
AS_WRITTEN = ["-fno-tree-ter", "-fno-tree-reassoc"]
SETS = {  # kernel set -> processor, the switches of its file
    "neon": ("aarch64", ["-march=armv8.2-a+dotprod"]),
    "avx2": ("x86_64", ["-mavx2", "-mfma", "-mf16c"]),
}
TYPES = (
    "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4 F16".split()
)  # fmt: skip
ROWS = (1, 8)
WEIGHTS = 16 * 512  # as in instructions.cpp
HEAD = """\
# Instructions of a product

Written by `python benchmarks/instructions.py`: instructions for each product of a weight and an activation of 8
bits, counted in an emulator, for one row of activations (decoding) and for eight. No clock of an ARM processor was
at hand. A vector has 32 bytes with AVX2 and 16 with NEON, so NEON would need twice as many instructions for the same
work; its dot products of bytes save some of them. GCC compiled both.

Products of 8-bit matrices (i8mm) were tried as a kernel set of their own and left out: with eight rows they took
as many instructions as dot products (Q4_0 0.159 and 0.166, Q8_0 0.140 and 0.145), since each group of 32 columns
ends in floats.

| type | NEON, 1 row | AVX2, 1 row | ratio | NEON, 8 rows | AVX2, 8 rows | ratio |
| --- | --- | --- | --- | --- | --- | --- |
"""


def program(kernels: str, compiler: list[str], folder: Path) -> Path:
    """instructions.cpp with the kernels it needs. Raises CalledProcessError."""
    folder.mkdir()
    sources = [*(ROOT / "csrc").glob("kernel*.cpp"), ROOT / "csrc/layout.cpp", ROOT / "csrc/system.cpp"]

    def compiled(source: Path) -> str:
        own = [*SETS[kernels][1], *AS_WRITTEN] if source.stem == f"kernels_{kernels}" else []
        made = folder / f"{source.stem}.o"
        subprocess.run([*compiler, *FLAGS, *own, "-c", str(source), "-o", str(made)], check=True)
        return str(made)

    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(compiled, [*sources, Path(__file__).with_suffix(".cpp")]))
    made = folder / "instructions"
    subprocess.run([*compiler, *FLAGS, *objects, "-o", str(made)], check=True)
    return made


def executed(made: Path, kernels: str, *given: object) -> int:
    """The instructions of one run. The emulator takes them one at a time and writes a line for each."""
    emulator = [f"qemu-{SETS[kernels][0]}-static", "-cpu", "max", "-singlestep", "-d", "exec,nochain"]
    command = [*emulator, "-D", "/dev/stdout", str(made), kernels, *map(str, given)]
    done = subprocess.run(command, check=True, capture_output=True)
    return done.stdout.count(b"\nTrace")


def per_weight(made: Path, kernels: str, kind: str, rows: int) -> float:
    """Of the second product: what the first one and the start of the program take is left out."""
    more = executed(made, kernels, kind, rows, 2) - executed(made, kernels, kind, rows, 1)
    return more / (WEIGHTS * rows)


def page(counts: dict[tuple[str, str, int], float]) -> str:
    lines = [HEAD.rstrip("\n")]
    for kind in TYPES:
        cells = [kind]
        for rows in ROWS:
            neon, avx2 = counts["neon", kind, rows], counts["avx2", kind, rows]
            cells += [f"{neon:.3f}", f"{avx2:.3f}", f"{neon / avx2:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm-compiler", default="aarch64-linux-gnu-g++")
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/instructions.md")
    given = parser.parse_args()
    counts = {}
    with tempfile.TemporaryDirectory() as folder:
        for kernels, compiler in (("neon", given.arm_compiler), ("avx2", given.compiler)):
            made = program(kernels, shlex.split(compiler), Path(folder) / kernels)
            for kind in TYPES:
                for rows in ROWS:
                    counts[kernels, kind, rows] = per_weight(made, kernels, kind, rows)
                    print(f"{kernels} {kind} {rows}: {counts[kernels, kind, rows]:.3f}", flush=True)
    given.page.write_text(page(counts), "utf-8")


if __name__ == "__main__":
    main()
