"""What is installed, what this machine has, and where files are kept. Looks only; changes and measures nothing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

from trilens import __version__
from trilens.checkpoints.verified import cache_dir
from trilens.units import data


def examine() -> dict[str, str]:
    """What was found, by name, in words."""
    return {
        "trilens": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores for this process",
        "instructions": _instructions(),
        "memory": _memory(),
        "torch": _version("torch") or "not installed; pip install 'trilens[torch]'",
        "libraries": ", ".join(f"{name} {_version(name)}" for name in ("tokenizers", "gguf", "huggingface_hub")),
        "cache": _place(cache_dir()),
        "hub cache": _place(_hub_cache()),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"


def _instructions() -> str:
    wanted = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "i8mm", "sve")
    for line in _lines("/proc/cpuinfo"):
        if line.startswith(("flags", "Features")):
            have = set(line.split(":", 1)[1].split())
            return ", ".join(name for name in wanted if name in have) or "none of the ones that matter here"
    return "unknown"


def _memory() -> str:
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.endswith("kB")}
    if "MemTotal" not in sizes:
        return "unknown"
    return f"{data(sizes['MemTotal'])}, {data(sizes.get('MemAvailable', 0))} available"


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _place(path: Path) -> str:
    known = next((p for p in (path, *path.parents) if p.exists()), None)
    free = f", {data(shutil.disk_usage(known).free)} free" if known else ""
    return f"{path}{'' if path.exists() else ' (not there yet)'}{free}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
