"""What `trilens quantise --to` can make, and which tensor gets which type.

The choice is llama.cpp's, tensor by tensor, so a file has the same size and quality: sensitive parts of a model (the
head, values, the last matrices of some layers) get more bits than the rest. A test compares both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trilens.checkpoints.ggml_types import BY_NAME
from trilens.errors import UsageError


class FileType(NamedTuple):
    """`number` is the value of general.file_type; `most` is the type of most tensors."""

    number: int
    most: str


FILE_TYPES = {
    "F32": FileType(0, "F32"),
    "F16": FileType(1, "F16"),
    "BF16": FileType(32, "BF16"),
    "Q8_0": FileType(7, "Q8_0"),
    "Q4_0": FileType(2, "Q4_0"),
    "Q4_1": FileType(3, "Q4_1"),
    "Q5_0": FileType(8, "Q5_0"),
    "Q5_1": FileType(9, "Q5_1"),
    "Q2_K": FileType(10, "Q2_K"),
    "Q3_K_S": FileType(11, "Q3_K"),
    "Q3_K_M": FileType(12, "Q3_K"),
    "Q3_K_L": FileType(13, "Q3_K"),
    "Q4_K_S": FileType(14, "Q4_K"),
    "Q4_K_M": FileType(15, "Q4_K"),
    "Q5_K_S": FileType(16, "Q5_K"),
    "Q5_K_M": FileType(17, "Q5_K"),
    "Q6_K": FileType(18, "Q6_K"),
}
WHOLE = ("F32", "F16", "BF16")
# Where rows are no multiple of 256 values.
INSTEAD = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
# Small, sensitive, or read by an operation that takes floats only.
KEPT = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|position_embd\.weight|token_types\.weight|ssm_conv1d|shortconv\.conv"
    r"|altup|laurel|per_layer_model_proj|attn_rel_b"
)
VALUES = re.compile(r"attn_(v|qkv|kv_b)\.weight$")


def file_type(name: str) -> str:
    """Q4_K_M of q4_k_m or Q4_K. Raises UsageError."""
    found = name.upper().replace("-", "_")
    found = f"{found}_M" if found in ("Q3_K", "Q4_K", "Q5_K") else found
    if found not in FILE_TYPES:
        raise UsageError(f"the type {name!r} is unknown; expected one of {', '.join(FILE_TYPES)}")
    return found


@dataclass(frozen=True)
class Facts:
    """Of the model: its architecture as GGUF names it, layers, query heads for each head of keys, experts."""

    architecture: str
    layers: int
    queries_per_head: int
    experts: int


def choose_types(shapes: Mapping[str, Sequence[int]], to: str, facts: Facts) -> dict[str, str | None]:
    """The type of each tensor, None for one that stays as it is. `shapes` are row-major."""
    chosen: dict[str, str | None] = {}
    tied = "output.weight" not in shapes
    values = sum(VALUES.search(name) is not None for name in shapes)
    value = down = 0
    for name in sorted(shapes, key=_place):
        shape = shapes[name]
        if not name.endswith("weight") or len(shape) < 2 or KEPT.search(name):
            chosen[name] = None
            continue
        kind = FILE_TYPES[to].most
        if to not in WHOLE:
            if name == "output.weight" or (tied and name == "token_embd.weight"):
                kind = "Q8_0" if shape[-1] % 256 or kind == "Q8_0" else "Q6_K"
            elif VALUES.search(name):
                kind = _values_type(name, to, kind, facts, value, values)
                value += 1
            elif "ffn_down" in name:
                kind = _down_type(to, kind, facts, _layer(name) if facts.experts > 1 else down)
                down += 1
            else:
                kind = _other_type(name, to, kind, facts)
        if shape[-1] % BY_NAME[kind].block:
            kind = INSTEAD.get(kind, "F16")
            kind = "F16" if shape[-1] % BY_NAME[kind].block else kind
        chosen[name] = kind
    return chosen


def _place(name: str) -> tuple[int, str]:
    """By layer, tensors outside the layers first."""
    return _layer(name), name


def _layer(name: str) -> int:
    found = re.match(r"blk\.(\d+)\.", name)
    return -1 if found is None else int(found[1])


def _more(i: int, count: int) -> bool:
    """The first and the last eighth, and every third layer between."""
    return i < count // 8 or i >= 7 * count // 8 or (i - count // 8) % 3 == 2


def _values_type(name: str, to: str, kind: str, facts: Facts, i: int, count: int) -> str:
    if "attn_qkv" in name:
        return {"Q3_K_M": "Q4_K", "Q3_K_L": "Q4_K", "Q4_K_M": "Q5_K", "Q5_K_M": "Q6_K"}.get(to, kind)
    if "attn_kv_b" in name:
        return kind
    match to:
        case "Q2_K":
            kind = "Q4_K" if facts.queries_per_head >= 4 else "Q3_K"
        case "Q3_K_M":
            kind = "Q5_K" if i < 2 else "Q4_K"
        case "Q3_K_L":
            kind = "Q5_K"
        case "Q4_K_M" | "Q5_K_M" if _more(i, count):
            kind = "Q6_K"
        case "Q4_K_S" if i < 4:
            kind = "Q5_K"
    if facts.layers == 80 and facts.queries_per_head > 1 and kind in ("Q3_K", "Q4_K"):
        kind = "Q5_K"  # models of 70B: eight heads share these values
    return "Q8_0" if facts.experts == 8 else kind


def _down_type(to: str, kind: str, facts: Facts, i: int) -> str:
    match to:
        case "Q2_K":
            return "Q3_K"
        case "Q3_K_M":
            return "Q5_K" if i < facts.layers // 16 else "Q4_K"
        case "Q3_K_L":
            return "Q5_K"
        case "Q4_K_M" | "Q5_K_M" if _more(i, facts.layers):
            return "Q6_K"
        case "Q4_K_S" if i < facts.layers // 8:
            return "Q5_K"
    return kind


def _other_type(name: str, to: str, kind: str, facts: Facts) -> str:
    if "attn_k.weight" in name and facts.experts == 8:
        return "Q8_0"
    if "attn_output.weight" in name:
        if facts.experts == 8:
            return "Q5_K" if kind in ("Q2_K", "Q3_K", "Q4_K") and to != "Q3_K_L" else kind
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(to, kind)
    return kind
