"""What every file of weights looks like to the rest: named tensors, their bytes, their values as float32."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # reading a header must not import numpy
    import numpy as np
    from numpy.typing import NDArray

    from trilens.checkpoints.opened import OpenFile


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor is and how it is stored, without its values."""

    name: str
    shape: tuple[int, ...]  # row-major: the last dimension is contiguous (GGUF's own order reversed)
    type: str  # "F32", "BF16", "F8_E4M3", "Q4_1", "Q4_K", "MXFP4", ...
    file: Path
    offset: int  # bytes from the start of the file
    nbytes: int


def raw_bytes(files: "Mapping[Path, OpenFile]", tensor: StoredTensor, start: int, stop: int | None) -> bytearray:
    """Bytes `start` to `stop` of the tensor, read from its file."""
    stop = tensor.nbytes if stop is None else min(stop, tensor.nbytes)
    return files[tensor.file].read(tensor.offset + start, stop - start)


class Checkpoint(Protocol):
    """The weights of one model, in one file or several."""

    @property
    def path(self) -> Path: ...

    @property
    def tensors(self) -> Mapping[str, StoredTensor]: ...

    @property
    def files(self) -> "Mapping[Path, OpenFile]":
        """Those that hold the tensors, open."""
        ...

    def raw(self, name: str, start: int = 0, stop: int | None = None) -> bytearray:
        """The tensor's bytes as they are in the file, from its `start`-th to before its `stop`-th.

        Raises BadCheckpoint if the file has been cut since it was opened.
        """
        ...

    def read(self, name: str) -> "NDArray[np.float32]":
        """The tensor's values in its `shape`: a fresh float32 array, scales applied.

        Raises UnsupportedModel for a type that trilens cannot read, and BadCheckpoint for a missing name.
        """
        ...

    def close(self) -> None:
        """Closes the files."""
        ...
