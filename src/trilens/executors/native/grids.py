"""The grids of llama.cpp's IQ types, as the kernels read them."""

from __future__ import annotations

import gguf.quants
import numpy as np


def grid(kind: str) -> np.ndarray:
    """The rows of the gguf package's grid for IQ1_S, IQ2_XS and so on, uint8 [entries, 8 or 4].

    Values of IQ1 are the grid's plus or minus an eighth. Its rows are eight times the grid's, plus 1, as signed bytes.
    """
    layout = getattr(gguf.quants, kind)
    layout.init_grid()
    values = layout.grid.reshape(-1, layout.grid.shape[-1])
    if kind.startswith("IQ1"):
        values = 8 * values + 1
    codes: np.ndarray = values.astype(np.int8)
    if not np.array_equal(codes, values):
        raise ValueError(f"the grid of {kind} has values that do not fit a byte")
    return np.ascontiguousarray(codes).view(np.uint8)
