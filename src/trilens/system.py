"""What the operating system says about this machine and this process, and system calls that act on them.

The only file with calls that some systems do not have. If a system does not say, the functions return None or a usual
value, as documented. Nothing here raises on systems other than Linux.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

POWERCAP = Path("/sys/class/powercap")  # where Linux counts the processor's energy
USUAL_MEMORY = 8 << 30  # bytes, where the system does not say
PR_SET_PDEATHSIG = 1
SEGMENT = re.compile(r"(/dev/shm/(?:psm_[0-9a-f]+|sem\.mp-\w+|__KMP_REGISTERED_LIB_\d+_\d+))$", re.MULTILINE)
BINARY: int = getattr(os, "O_BINARY", 0)  # for os.open: Windows alone tells text from bytes
WITHOUT_WAITING: int = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | BINARY


def usable_processors() -> list[int]:
    """Numbers of the logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def usable_cores() -> int:
    """Physical cores that this process may run on; logical processors where the system does not tell them apart."""
    allowed = usable_processors()
    cores = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            cores.add(((topology / "physical_package_id").read_text(), (topology / "core_id").read_text()))
        except OSError:
            return len(allowed)
    return max(1, len(cores))


def processor_name() -> str:
    """As the system has it."""
    named = _first_value(_lines("/proc/cpuinfo"), "model name") or _sysctl("machdep.cpu.brand_string")
    return named or platform.processor() or "unknown processor"


def processor_features() -> set[str] | None:
    """The instruction sets in Linux's words; None where the system does not list them."""
    for name in ("flags", "Features"):
        if (listed := _first_value(_lines("/proc/cpuinfo"), name)) is not None:
            return set(listed.split())
    return None


def largest_cache() -> int | None:
    """Bytes of the processor's largest cache; None where the system does not say."""
    largest = 0
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with suppress(OSError, ValueError):
            text = index.read_text().strip()
            largest = max(largest, int(text.rstrip("KM") or 0) * {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1))
    return largest or None


def memory() -> int | None:
    """Bytes of memory in this machine; None where the system does not say."""
    if hasattr(os, "sysconf"):
        with suppress(OSError, ValueError):
            return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    status = _windows_memory()
    return status and status[0]


def available_memory() -> int | None:
    """Bytes that a new process can have; None where the system does not say."""
    said = _first_value(_lines("/proc/meminfo"), "MemAvailable")
    if said is not None:
        with suppress(ValueError):
            return int(said.split()[0]) * 1024
    status = _windows_memory()
    return status and status[1]


def _windows_memory() -> tuple[int, int] | None:
    """(all, available) bytes."""
    kernel = getattr(ctypes, "windll", None)
    if kernel is None:
        return None

    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_uint32), ("load", ctypes.c_uint32)] + [
            (name, ctypes.c_uint64) for name in ("all", "available", "d", "e", "f", "g", "h")
        ]

    status = Status(length=ctypes.sizeof(Status))
    if not kernel.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return status.all, status.available


def _sysctl(name: str) -> str | None:
    if sys.platform != "darwin":
        return None
    try:
        return subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def read_into(descriptor: int, room: memoryview) -> int:
    """Bytes read from where the file stands, as many as the system gives at once; 0 at its end. Raises OSError."""
    if hasattr(os, "readv"):
        return os.readv(descriptor, [room])
    data = os.read(descriptor, len(room))
    room[: len(data)] = data
    return len(data)


def raise_descriptor_limit(most: int) -> int | None:
    """How many descriptors this process may have, `most` at most. Raises its soft limit towards the hard one. None
    where the system has no such limit."""
    try:
        import resource
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return most if soft == resource.RLIM_INFINITY else soft


def has_input(file: IO[str], seconds: float) -> bool:
    """Whether a pipe has something to read, or ends, within so many seconds; True where the system cannot tell."""
    try:
        return bool(select.select([file], [], [], seconds)[0])
    except OSError:  # Windows waits for sockets alone
        return True


def give_memory_back() -> None:
    """Return freed memory to the system, if the C library can do that."""
    if (trim := getattr(ctypes.pythonapi, "malloc_trim", None)) is not None:
        trim(0)


def drop_typed_input() -> None:
    """Discard what was typed at the terminal but not read; otherwise the shell would run it."""
    with suppress(OSError, ValueError, ImportError):
        import termios

        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)


def end_group(process: subprocess.Popen[Any]) -> None:
    """End at once what is left of the process group of a process that was started in its own session; only the
    process if there are no groups.
    """
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def group_lives(group: int) -> bool:
    """Whether any process of the group is there; False where there are no groups."""
    if not hasattr(os, "killpg"):
        return False
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def signal_name(code: int) -> str:
    try:
        return signal.Signals(code).name
    except ValueError:
        return str(code)


def ends_with_us() -> Callable[[], None] | None:
    """Makes the system end a new process when this one is killed. Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask


def shared_memory(group: int) -> set[Path]:
    """Shared-memory segments that Python and OpenMP made for the processes of a group. Linux only."""
    found: set[Path] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError, ValueError):
            if int(maps.with_name("stat").read_text().rpartition(")")[2].split()[2]) == group:
                found.update(Path(line) for line in SEGMENT.findall(maps.read_text()))
    return found


def _first_value(lines: list[str], name: str) -> str | None:
    for line in lines:
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
