"""Which parameters are packed as matrices, and the types that have kernels. Imports no NumPy: cards ask this."""

from __future__ import annotations

from functools import lru_cache

from trilens.executors.native.extension import _native
from trilens.executors.native.fuse import fuse
from trilens.executors.native.program import Op
from trilens.executors.native.record import record, record_prediction
from trilens.spec.model import ModelSpec

MATRICES = {
    Op.EMBED: (0,),
    Op.LINEAR: (0,),
    Op.HEAD_LINEAR: (0,),
    Op.LINEARS: (0, 2, 4),
    Op.GLU_LINEAR: (0, 2),
    Op.EXPERTS: (0, 2, 4),
}


def native_types() -> dict[str, tuple[int, int]]:
    """Types that have kernels: name -> (values, bytes) of a block in the file."""
    types: dict[str, tuple[int, int]] = _native.types()
    return types


@lru_cache(maxsize=8)
def matrices(spec: ModelSpec) -> frozenset[str]:
    """Names of the parameters that are packed; the others are rows of floats."""
    return frozenset(
        p.name
        for program in (record(spec), *([] if spec.prediction is None else [record_prediction(spec)]))
        for ins in fuse(program).instructions
        for at in MATRICES.get(ins.op, ())
        if at < len(ins.parameters) and (p := ins.parameters[at]) is not None
    )
