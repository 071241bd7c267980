"""FP8: the scales of 8-bit floats are separate tensors. This file brings both together.

As DeepSeek, Qwen, compressed-tensors and ModelOpt write it:
    X.weight            F8_E4M3 [..., rows, columns]
    X.weight_scale_inv  [..., ceil(rows / block rows), ceil(columns / block columns)]; despite the name, a factor
    X.weight_scale      one for all, or [rows], or [..., rows, 1], or blocks as above
    X.input_scale, X.activation_scale: for engines that round activations too; not used here
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from trilens.checkpoints.checkpoint import StoredTensor
from trilens.files import bad, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FP8 = ("F8_E4M3", "F8_E5M2")
SCALE_TYPES = ("F32", "F16", "BF16", "F64", "F8_E8M0")


def pair_with_scales(
    stored: Mapping[str, StoredTensor], block_size: tuple[int, int]
) -> tuple[dict[str, StoredTensor], dict[str, StoredTensor], dict[str, str]]:
    """(parameters, scales, parameter name -> scale name); every other tensor stays a parameter.

    Raises BadCheckpoint for a scale whose shape does not fit its tensor.
    """
    parameters, scales, scale_of = dict(stored), dict[str, StoredTensor](), dict[str, str]()
    for name, tensor in stored.items():
        if tensor.type in FP8:
            factors = [stored[name + end] for end in ("_scale_inv", "_scale") if name + end in stored]
            if len(factors) > 1:
                raise bad(tensor.file, f"tensor {shown(name)} has two scales, {' and '.join(s.name for s in factors)}")
            for scale in factors:
                if scale.type not in SCALE_TYPES or _layout(tensor.shape, scale.shape, block_size) is None:
                    raise _misfit(tensor, scale)
                scale_of[name] = scale.name
            stem = name.removesuffix("weight") if name.endswith(".weight") else name + "_"
            for scale_name in (*(s.name for s in factors), stem + "input_scale", stem + "activation_scale"):
                if scale_name in parameters:
                    scales[scale_name] = parameters.pop(scale_name)
    return parameters, scales, scale_of


def times_scale(values: "NDArray[np.float32]", scale: "NDArray[np.float32]", block_size: tuple[int, int]) -> None:
    """Multiplies `values` in place by `scale`, float32 of a shape that `pair_with_scales` has let through."""
    import numpy as np

    layout = _layout(values.shape, scale.shape, block_size)
    if layout is None:
        raise ValueError(f"a scale of {scale.shape} does not fit a weight of {values.shape}")
    shape, (rows, columns) = layout
    if values.ndim < 2:
        values *= scale.reshape(-1)
        return
    matrices = values.reshape(-1, *values.shape[-2:])
    factors = np.broadcast_to(scale.reshape(shape), (*values.shape[:-2], *shape[-2:])).reshape(-1, *shape[-2:])
    with np.errstate(all="ignore"):
        for matrix, factor in zip(matrices, factors, strict=True):
            for row in range(len(factor)):
                matrix[row * rows : (row + 1) * rows] *= np.repeat(factor[row], columns)[: matrix.shape[1]]


def shared_by_128(weight: tuple[int, ...], scale: tuple[int, ...], block_size: tuple[int, int]) -> bool:
    """Whether columns 0 to 127 of every row share a scale, 128 to 255, and so on: the native F8_E4M3 needs that."""
    layout = _layout(weight, scale, block_size)
    return len(weight) > 1 and layout is not None and (layout[1][1] % 128 == 0 or layout[1][1] >= weight[-1])


def factors_of_128(
    weight: tuple[int, ...], scale: "NDArray[np.float32]", block_size: tuple[int, int]
) -> "Callable[[int, int], NDArray[np.float32]]":
    """(first, stop) -> the factors of those rows for each 128 columns, float32 [n, ceil(columns / 128)], where
    `shared_by_128` holds. Matrices of a stack lie one behind the other."""
    import numpy as np

    layout = _layout(weight, scale.shape, block_size)
    if layout is None:
        raise ValueError(f"a scale of {scale.shape} does not fit a weight of {weight}")
    shape, (high, wide) = layout
    *lead, rows, columns = weight
    factors = np.broadcast_to(scale.reshape(shape), (*lead, *shape[-2:])).reshape(-1, *shape[-2:])
    of_columns = np.arange(0, columns, 128) // wide

    def rows_of(first: int, stop: int) -> "NDArray[np.float32]":
        at = np.arange(first, stop)
        of_rows: NDArray[np.float32] = factors[at // rows, at % rows // high]
        return of_rows[:, of_columns]

    return rows_of


def _layout(
    weight: tuple[int, ...], scale: tuple[int, ...], block_size: tuple[int, int]
) -> tuple[tuple[int, ...], tuple[int, int]] | None:
    """How `scale` lies on `weight`: its shape with as many dimensions as the weight, and the rows and columns of a
    block; None if it does not fit."""
    dimensions = len(weight)
    if all(width == 1 for width in scale):
        return (1,) * dimensions, weight[-2:] if dimensions > 1 else (1, 1)  # type: ignore[return-value]
    if dimensions < 2:
        return None
    *lead, rows, columns = weight
    if scale in ((rows,), (*lead, rows), (*lead, rows, 1)) and (dimensions == 2 or scale != (rows,)):
        return (*lead, rows, 1), (1, columns)
    if lead and scale in (tuple(lead), (*lead, 1, 1)):
        return (*lead, 1, 1), (rows, columns)
    high, wide = block_size
    if scale == (*lead, -(-rows // high), -(-columns // wide)):
        return scale, (high, wide)
    return None


def _misfit(tensor: StoredTensor, scale: StoredTensor) -> Exception:
    return bad(
        scale.file,
        f"{shown(scale.name)} of {scale.type} {list(scale.shape)} does not fit"
        f" {shown(tensor.name)} of {tensor.type} {list(tensor.shape)}",
    )
