"""Installs each wheel into an empty environment where no compiler can be found, and asks it.

    python wheels/try_wheels.py FOLDER PYTHON ...
    python wheels/try_wheels.py FOLDER --under "qemu-aarch64-static -L ROOT" --processor aarch64 PYTHON ...

PYTHON is an interpreter; what it needs is installed as wheels only. With `--under` a program runs the interpreter, as
an emulator does, and the packages are unpacked for that processor beside it. Each interpreter gets the wheel that its
installer chooses from the folder. `answers.py` says what is asked.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ANSWERS = Path(__file__).with_name("answers.py").resolve()
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "cmake", "ninja", "zig", "rustc", "cargo")


def bare_path(folder: Path) -> str:
    """A PATH with the few programs that a shell script needs. Nothing that compiles is on it."""
    for name in ("sh", "env", "uname"):
        if (found := shutil.which(name)) is not None:
            (folder / name).symlink_to(found)
    assert not [name for name in COMPILERS if shutil.which(name, path=str(folder))]
    return str(folder)


def in_environment(python: str, wheels: Path, work: Path) -> None:
    """With the interpreter's own installer. Raises CalledProcessError."""
    environment = {k: v for k, v in os.environ.items() if k not in ("CC", "CXX", "PYTHONPATH", "VIRTUAL_ENV")}
    (work / "path").mkdir()
    environment["PATH"] = bare_path(work / "path")
    subprocess.run([python, "-m", "venv", str(work / "env")], check=True)
    there = str(work / "env" / "bin" / "python")
    install = [there, "-m", "pip", "install", "--quiet", "--only-binary=:all:", f"--find-links={wheels.resolve()}"]
    subprocess.run([*install, "trilens"], check=True, env=environment)
    subprocess.run([there, str(ANSWERS)], check=True, env=environment, cwd=work)


def emulated(under: list[str], python: str, processor: str, wheels: Path, work: Path) -> None:
    """The packages are chosen by the Python that runs this, for the other one. Raises CalledProcessError."""
    run = [*under, python]
    asked = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = subprocess.run([*run, "-c", asked], check=True, capture_output=True, text=True).stdout.strip()
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--only-binary=:all:",
        f"--target={work / 'packages'}",
    ]
    chosen = [f"--platform=manylinux_2_{minor}_{processor}" for minor in range(28, 16, -1)]
    chosen += [f"--platform=manylinux2014_{processor}", f"--python-version={version}", "--implementation=cp"]
    chosen += ["--only-binary=:all:", f"--find-links={wheels.resolve()}"]
    subprocess.run([*install, *chosen, "trilens"], check=True)
    environment = os.environ | {"PYTHONPATH": str(work / "packages"), "TRILENS_PYTHON": shlex.join(run)}
    subprocess.run([*run, str(ANSWERS)], check=True, env=environment, cwd=work)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path)
    parser.add_argument("python", nargs="+")
    parser.add_argument("--under", default="", help="what runs the interpreter")
    parser.add_argument("--processor", default="x86_64", choices=("x86_64", "aarch64"))
    given = parser.parse_args()
    failed = []
    for python in given.python:
        print(f"== {given.under} {python}".replace("  ", " "), flush=True)
        with tempfile.TemporaryDirectory() as work:
            try:
                if given.under:
                    emulated(shlex.split(given.under), python, given.processor, given.wheels, Path(work))
                else:
                    in_environment(python, given.wheels, Path(work))
            except subprocess.CalledProcessError as problem:
                print(problem, file=sys.stderr)
                failed.append(python)
    print(f"{len(given.python) - len(failed)} of {len(given.python)} interpreters answered")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
