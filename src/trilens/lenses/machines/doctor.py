"""What is installed, what this machine has, and where files are kept. Looks only; changes and measures nothing."""

from __future__ import annotations

import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

from trilens import __version__, system
from trilens.checkpoints.verified import cache_dir
from trilens.files import exists
from trilens.units import data


def examine() -> dict[str, str]:
    """What was found, by name, in words."""
    return {
        "trilens": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{system.processor_name()}, {len(system.usable_processors())} cores for this process",
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


def _instructions() -> str:
    wanted = "avx2 fma f16c avx512f avx512_vnni avx_vnni amx_int8 asimd asimddp i8mm sve".split()
    have = system.processor_features()
    if have is None:
        return "unknown"
    return ", ".join(name for name in wanted if name in have) or "none of those that the kernels use"


def _memory() -> str:
    everything, available = system.memory(), system.available_memory()
    if everything is None:
        return "unknown"
    return f"{data(everything)}, {'unknown' if available is None else data(available)} available"


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _place(path: Path) -> str:
    known = next((p for p in (path, *path.parents) if exists(p)), None)
    free = f", {data(shutil.disk_usage(known).free)} free" if known else ""
    return f"{path}{'' if exists(path) else ' (does not exist yet)'}{free}"
