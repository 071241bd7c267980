"""Models of the Hugging Face hub, through huggingface_hub: its cache, progress bars, login and offline mode."""

import os
import re
import threading
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from trilens.checkpoints.announced import announce
from trilens.checkpoints.local import CONFIGS, PICKLES, Found, at_path, gguf_sets, listing
from trilens.checkpoints.verified import check_hub_files
from trilens.errors import ModelNotFound
from trilens.files import read_text

CONNECT = 3.0  # seconds to connect and to wait for each part of the answer, where HF_HUB_ETAG_TIMEOUT says nothing
RESOLVE = 1.0  # seconds more for the whole look-up: a name resolver that hangs knows nothing of CONNECT

SMALL = (
    *CONFIGS,
    "generation_config.json",
    "tokenizer*",
    "tekken.json",
    "tiktoken.model",
    "*.tiktoken",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template*",
)

T = TypeVar("T")


def on_hub(repo: str, choice: str | None, *, revision: str | None, offline: bool, only_small: bool) -> Found:
    """The files of `repo` ("org/name"), downloaded as needed; `choice` is a GGUF file or quantisation of it.

    Without a network, the cached files are used. Raises ModelNotFound with one line that says what to do.
    """
    from huggingface_hub import HfApi, constants

    if offline or constants.is_offline_mode():
        return _from_cache(repo, choice, revision, only_small, ModelNotFound(f"{repo}: offline"))
    try:
        wait = _patience()
        info = _within(
            wait + RESOLVE, lambda: HfApi().model_info(repo, revision=revision, timeout=wait, files_metadata=True)
        )
    except Exception as error:
        told = _told(repo, error)
        if isinstance(error, _final_errors()):
            raise told from None
        return _from_cache(repo, choice, revision, only_small, told)
    names = [sibling.rfilename for sibling in info.siblings or ()]
    files = wanted(repo, names, choice, only_small=only_small)
    origin = f"hub {repo}@{(info.sha or '')[:12]}"
    if only_small and files[0].lower().endswith(".gguf"):
        here = _cached(repo, info.sha)
        if here is None or not all((here / file).exists() for file in files):
            raise ModelNotFound(f"{repo}: has no config.json, and {files[0]} is not here; get it with `trilens pull`")
    else:
        here = _cached(repo, info.sha)
        lacking = [sibling for sibling in info.siblings or () if sibling.rfilename in files]
        lacking = [sibling for sibling in lacking if here is None or not (here / sibling.rfilename).exists()]
        if lacking:
            sizes = [sibling.size for sibling in lacking]
            whole = None if None in sizes else sum(size for size in sizes if size is not None)
            announce(f"{origin.removeprefix('hub ')} from the hub, {len(lacking)} files", whole)
        here = _download(repo, revision, files)
    check_hub_files(here / file for file in files)
    if files[0].lower().endswith(".gguf"):
        return Found("gguf", here / files[0], origin)
    if only_small:
        return Found("config", here / next(name for name in CONFIGS if name in files), origin)
    return Found("directory", here, origin)


def wanted(repo: str, names: Iterable[str], choice: str | None, *, only_small: bool) -> list[str]:
    """Which files of a repository are needed: the parts of one GGUF model in order, or the configuration and then the
    rest.

    Raises ModelNotFound if there is nothing to read, or if the caller has to choose.
    """
    names = list(names)
    sets = gguf_sets(names)
    at_root = [name for name in names if "/" not in name]
    weights = [name for name in at_root if name.endswith((".safetensors", ".safetensors.index.json"))]
    if any(name.startswith("model") for name in weights):  # Mistral's repositories hold the weights twice
        weights = [name for name in weights if not name.startswith("consolidated")]
    config = [name for name in CONFIGS if name in at_root]
    if choice is None and config and (weights or only_small):
        small = [name for name in at_root if any(fnmatch(name, pattern) for pattern in SMALL) and name not in config]
        return config + sorted(small) + ([] if only_small else sorted(weights))
    if choice is not None:
        return sets[_chosen(repo, choice, sets)]
    if len(sets) == 1:
        return next(iter(sets.values()))
    if sets:
        raise ModelNotFound(f"{repo}: holds {len(sets)} GGUF models; choose one as {repo}:QUANT from {listing(sets)}")
    if any(name.endswith(PICKLES) for name in names):
        raise ModelNotFound(f"{repo}: contains only pickled weights, which can run code and are not read")
    raise ModelNotFound(f"{repo}: contains no model; expected config.json with *.safetensors, or GGUF files")


def _chosen(repo: str, choice: str, sets: dict[str, list[str]]) -> str:
    """The one set that `choice` means: a file name, else a word of one (F16 is not one of BF16), else a part of one."""
    lower = choice.lower()
    word = re.compile(rf"(?<![a-z0-9]){re.escape(lower)}(?![a-z0-9_])")
    tests: tuple[Callable[[str], bool], ...] = (
        lambda name: lower in (name, name.rpartition("/")[2]),
        lambda name: word.search(name) is not None,
        lambda name: lower in name,
    )
    for test in tests:
        hits = [first for first, files in sets.items() if any(test(file.lower()) for file in files)]
        if len(hits) == 1:
            return hits[0]
        if hits:
            raise ModelNotFound(f"{repo}:{choice}: matches several files; choose one of {listing(hits)}")
    has = f"it has {listing(sets)}" if sets else "it has no GGUF files"
    raise ModelNotFound(f"{repo}:{choice}: no GGUF file has that name; {has}")


def _download(repo: str, revision: str | None, files: list[str]) -> Path:
    """The directory of the cache that now holds `files`.

    By the revision's name, not its commit: so the cache remembers which commit that was, for want of a network later.
    """
    from huggingface_hub import snapshot_download

    exactly = [re.sub(r"([*?[])", r"[\1]", file) for file in files]  # a name is no pattern
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=exactly, etag_timeout=_patience()))
    except Exception as error:
        raise _told(repo, error) from None


def _from_cache(repo: str, choice: str | None, revision: str | None, only_small: bool, why: ModelNotFound) -> Found:
    """The cached files of `repo`. `why` says why the hub was not asked, for the error if they are not enough."""
    here = _cached(repo, revision)
    if here is None:
        raise ModelNotFound(
            f"{why}, and it is not in the cache; check the network, or give a path or a name from the catalog"
        ) from None
    origin = f"hub {repo}@{here.name[:12]}, from the cache"
    try:
        names = [file.relative_to(here).as_posix() for file in here.rglob("*") if file.is_file()]
        if choice is None:
            found = at_path(here, origin, only_small=only_small)
        else:
            sets = gguf_sets(names)
            found = Found("gguf", here / _chosen(repo, choice, sets), origin)
        check_hub_files(here / name for name in _used(found, here, names, only_small=only_small))
        return found
    except ModelNotFound as lacking:
        raise ModelNotFound(f"{why}, and the cache does not hold enough: {lacking}") from None


def _used(found: Found, here: Path, names: list[str], *, only_small: bool) -> list[str]:
    """The files of a snapshot that will be read."""
    if found.kind == "gguf":
        return gguf_sets(names)[found.path.relative_to(here).as_posix()]
    return [name for name in names if "/" not in name and not (only_small and name.endswith(".safetensors"))]


def _patience() -> float:
    """Seconds to wait for the hub: from huggingface_hub's own variables, else our default."""
    from huggingface_hub import constants

    said = [name for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT") if os.environ.get(name)]
    return max((float(getattr(constants, name)) for name in said), default=CONNECT)


def _cached(repo: str, revision: str | None) -> Path | None:
    """The newest snapshot of the branch, tag or commit in the hub's cache. The cache's layout is documented:
    https://huggingface.co/docs/huggingface_hub/guides/manage-cache"""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    reference = folder / "refs" / (revision or "main")
    commit = read_text(reference, 1000).strip() if reference.is_file() else revision
    snapshot = folder / "snapshots" / (commit or "main")
    return snapshot if snapshot.is_dir() else None


def _within(seconds: float, work: Callable[[], T]) -> T:
    """Return or raise what `work` does, or raise TimeoutError after `seconds`. The thread is then left running."""
    done: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return done[0]


def _final_errors() -> tuple[type[Exception], ...]:
    """Errors of the hub for which the cache is no substitute."""
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    return HFValidationError, RepositoryNotFoundError, RevisionNotFoundError


def _told(repo: str, error: Exception) -> ModelNotFound:
    """The hub's error in one line."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    login = "run `hf auth login` or set HF_TOKEN"
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
    match error:
        case GatedRepoError():
            return ModelNotFound(f"{repo}: is gated; accept its terms at https://huggingface.co/{repo}, then {login}")
        case RepositoryNotFoundError():
            return ModelNotFound(f"{repo}: no such model on the hub, or a private one; check the name, or {login}")
        case RevisionNotFoundError():
            return ModelNotFound(f"{repo}: has no such revision; see https://huggingface.co/{repo}/tree/main")
        case HFValidationError():
            return ModelNotFound(f"{repo}: is not a hub id: {lines[0][:200]}")
        case HfHubHTTPError() if error.response is not None and error.response.status_code in (401, 403):
            return ModelNotFound(f"{repo}: the hub refuses access ({error.response.status_code}); {login}")
        case HfHubHTTPError() if error.response is not None:
            return ModelNotFound(f"{repo}: the hub answered {error.response.status_code}; try again later")
    return ModelNotFound(f"{repo}: the hub cannot be reached ({reason})")
