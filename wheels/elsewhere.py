"""Compiles and links the extension for macOS and Windows with zig. Nothing is run.

    python wheels/elsewhere.py [--windows-python FOLDER] [TARGET ...]

Needs the packages of wheels/requirements.txt. Windows has headers and an import library of its own: FOLDER is an
unpacked Python for Windows, with `include` and `libs`; without one, Windows is left out and that is said.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import nanobind

ROOT = Path(__file__).resolve().parents[1]
NANOBIND = Path(nanobind.__file__).parent
KERNELS = {  # by processor
    "x86_64": {
        "kernels_avx2": ["-mavx2", "-mfma", "-mf16c"],
        "kernels_avx512": "-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni".split(),
    },
    "aarch64": {"kernels_neon": ["-mcpu=generic+v8_2a+dotprod"]},
}
FLAGS = ["-std=c++20", "-O3", "-fvisibility=hidden", "-ffp-contract=off", "-fno-strict-aliasing", "-DNDEBUG"]
TARGETS = {
    "aarch64-macos.11.0": "_native.abi3.so",
    "x86_64-macos.11.0": "_native.abi3.so",
    "x86_64-windows-gnu": "_native.pyd",
}


def instructions(folder: Path) -> None:
    """ops.inl, as CMake makes it."""
    program = (ROOT / "src/trilens/executors/native/program.py").read_text()
    (folder / "ops.inl").write_text(",".join(re.findall(r"\n    [A-Z_]+ = [0-9]+", program)) + ",\n")


def compiled(target: str, python: Path, libraries: list[str]) -> Path:
    """The linked extension. Raises CalledProcessError."""
    folder = ROOT / "build" / "wheels" / "elsewhere" / target
    folder.mkdir(parents=True, exist_ok=True)
    instructions(folder)
    zig = [sys.executable, "-m", "ziglang", "c++", "-target", target]
    headers = ["-isystem", str(python), "-isystem", str(NANOBIND / "include"), f"-I{folder}"]
    headers += ["-isystem", str(NANOBIND / "ext" / "robin_map" / "include"), "-DPy_LIMITED_API=0x030C0000"]
    headers += ["-include", "stdio.h", "-Wno-macro-redefined"]
    objects = []
    for source in [*sorted((ROOT / "csrc").glob("*.cpp")), NANOBIND / "src" / "nb_combined.cpp"]:
        own = ["-Wall", "-Wextra"] if source.parent.name == "csrc" else ["-DNB_BUILD"]
        own += [] if "windows" in target else ["-fPIC"]
        own += KERNELS[target.split("-")[0]].get(source.stem, [])
        if source.stem == "sampling":
            own += ["-fno-trapping-math", "-fno-math-errno"]
        made = folder / f"{source.stem}.o"
        subprocess.run([*zig, *FLAGS, *own, *headers, "-c", str(source), "-o", str(made)], check=True)
        objects.append(str(made))
    linked = folder / TARGETS[target]
    subprocess.run([*zig, "-O3", "-shared", *objects, *libraries, "-o", str(linked)], check=True)
    return linked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows-python", type=Path)
    parser.add_argument("target", nargs="*", default=list(TARGETS))
    given = parser.parse_args()
    for target in given.target:
        python, libraries = Path(sysconfig.get_path("include")), ["-Wl,-undefined,dynamic_lookup"]
        if "windows" in target:
            if given.windows_python is None:
                print(f"{target}: left out; give --windows-python")
                continue
            python = given.windows_python / "include"
            libraries = [str(given.windows_python / "libs" / "python3.lib")]
        made = compiled(target, python, libraries)
        print(f"{target}: {made.relative_to(ROOT)}, {made.stat().st_size >> 10} KiB", flush=True)


if __name__ == "__main__":
    main()
