"""What is asked of the operating system is asked in one file, and all works where a system does not answer."""

from __future__ import annotations

import ast
import os
import platform
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import measure_roughly
from trilens import system
from trilens.cli import main
from trilens.lenses.machines import machine

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src" / "trilens"
# What at least one of Linux, macOS and Windows has not: of `os`, of `signal`, and whole modules.
OF_OS = set(
    """
    sched_getaffinity sched_setaffinity sysconf sysconf_names getloadavg cpu_count process_cpu_count
    readv writev preadv pwritev pread pwrite posix_fadvise posix_fallocate sendfile splice memfd_create
    fork forkpty kill killpg getpgid getpgrp setpgid setsid getsid setpgrp getppid nice wait waitpid uname
    getuid geteuid getgid getegid chown fchown lchown fchmod mkfifo mknod statvfs fstatvfs confstr pathconf
    O_NONBLOCK O_CLOEXEC O_BINARY O_NOFOLLOW O_DIRECT O_DSYNC O_SYNC startfile get_blocking set_blocking
""".split()
)
OF_SIGNAL = {"SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGCHLD", "pthread_sigmask", "alarm"}
MODULES = set("ctypes fcntl grp mmap posix pty pwd resource select termios tty winreg msvcrt _winapi".split())
PLACES = re.compile(r"^/(proc|sys|dev)\b")


def named(tree: ast.Module) -> set[str]:
    """System calls, modules and places that a file names outside its documentation."""
    said = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(ast.Name("os"), name) if name in OF_OS:
                found.add(f"os.{name}")
            case ast.Attribute(ast.Name("signal"), name) if name in OF_SIGNAL:
                found.add(f"signal.{name}")
            case ast.Import(names):
                found |= {a.name for a in names if a.name.split(".")[0] in MODULES}
            case ast.ImportFrom(module, names):
                found |= {module} if (module or "").split(".")[0] in MODULES else set()
                found |= {f"os.{a.name}" for a in names if module == "os" and a.name in OF_OS}
                found |= {f"signal.{a.name}" for a in names if module == "signal" and a.name in OF_SIGNAL}
            case ast.Constant(str(text)) if id(node) not in said and PLACES.match(text):
                found.add(text)
    return {f"{name}" for name in found}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import os\nos.sched_getaffinity(0)", {"os.sched_getaffinity"}),
        ("from os import sysconf, path", {"os.sysconf"}),
        ("def f():\n    import resource", {"resource"}),
        ("import signal\nsignal.SIGKILL", {"signal.SIGKILL"}),
        ("Path(f'/proc/{n}/maps')", {"/proc/"}),
        ('"""/proc/meminfo"""\nimport os\nos.getpid()', set()),
    ],
)
def test_the_search_finds_what_it_looks_for(text: str, expected: set[str]) -> None:
    assert named(ast.parse(text)) == expected


def test_no_other_python_file_asks_the_system() -> None:
    others = {path: named(ast.parse(path.read_text())) for path in SOURCES.rglob("*.py") if path.name != "system.py"}
    assert {str(path.relative_to(SOURCES)): names for path, names in others.items() if names} == {}
    assert len(named(ast.parse((SOURCES / "system.py").read_text()))) > 10


def test_no_other_file_in_c_asks_the_system() -> None:
    asked = re.compile(
        r"#include <(sys/|unistd|windows|process|pthread|sched|fcntl|signal|linux/|mach/)"
        r"|\b(getpid|madvise|mmap|sysconf|syscall|sched_\w+affinity)\b|_WIN32|__linux__|__APPLE__"
    )
    files = {path.name: asked.search(path.read_text()) for path in (ROOT / "csrc").iterdir() if path.suffix != ".md"}
    assert {name for name, found in files.items() if found} == {"system.cpp"}


def as_macos(patch: pytest.MonkeyPatch) -> None:
    """What Linux has and macOS has not."""
    patch.setattr(sys, "platform", "darwin")
    patch.setattr(system, "Path", lambda path: Path("/nowhere-on-this-system" + str(path)))
    patch.delattr(os, "sched_getaffinity")


def as_windows(patch: pytest.MonkeyPatch) -> None:
    as_macos(patch)
    patch.setattr(sys, "platform", "win32")
    for name in ("sysconf", "readv", "killpg"):
        patch.delattr(os, name)
    patch.delattr(signal, "SIGKILL")
    for name in ("resource", "termios", "fcntl"):
        patch.setitem(sys.modules, name, None)  # to import it is an ImportError


SYSTEMS = pytest.mark.parametrize("imitate", [as_macos, as_windows], ids=["macOS", "Windows"])


PLAN = ["plan", "tiny-dense", "--context", "128"]


@pytest.fixture(scope="module")
def measurements() -> machine.Machine:
    """This machine as other tests have measured it, or measured now, for the plan below."""
    threads = os.cpu_count() or 1
    with pytest.MonkeyPatch.context() as patch:
        measure_roughly(patch)
        assert main([*PLAN, "--threads", str(threads)]) == 0
        return machine.measured(threads)


@pytest.mark.usefixtures("measured_roughly")
@SYSTEMS
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["doctor"], "processor"),
        (PLAN, "memory"),
        (["run", "What is 2 + 3?", "--model", "tiny-dense", "--max-tokens", "4", "--temperature", "0"], ""),
    ],
    ids=["doctor", "plan", "run"],
)
def test_commands_work_where_the_system_has_less(
    imitate: Callable[[pytest.MonkeyPatch], None],
    arguments: list[str],
    expected: str,
    measurements: machine.Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    imitate(monkeypatch)
    if arguments is PLAN:  # as measured under the other system's name for the processor, and away from the real file
        monkeypatch.setenv("TRILENS_CACHE", str(tmp_path))
        machine._keep(replace(measurements, processor=system.processor_name()))
    code = main(arguments)
    said = capfd.readouterr()
    assert code == 0, said.err
    assert said.out.strip()
    assert expected in said.out


@SYSTEMS
def test_what_the_system_does_not_say_is_unknown(
    imitate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    imitate(monkeypatch)
    assert system.usable_processors() == list(range(os.cpu_count() or 1))
    assert system.usable_cores() == (os.cpu_count() or 1)
    assert system.processor_features() is None
    assert system.largest_cache() is None
    assert system.available_memory() is None
    assert (system.memory() is None) == (imitate is as_windows)
    assert system.processor_name() == (platform.processor() or "unknown processor")
    assert system.ends_with_us() is None
    assert (system.raise_descriptor_limit(64) is None) == (imitate is as_windows)


@SYSTEMS
def test_files_are_read_the_same(
    imitate: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trilens.checkpoints.opened import OpenFile

    (tmp_path / "weights").write_bytes(bytes(range(256)) * 40)
    imitate(monkeypatch)
    file = OpenFile(tmp_path / "weights")
    assert file.read(3, 5000) == (bytes(range(256)) * 40)[3:5003]
    file.close()


def test_memory_as_linux_says_it() -> None:
    everything, available = system.memory(), system.available_memory()
    assert everything is not None
    assert available is not None
    assert 0 < available <= everything
