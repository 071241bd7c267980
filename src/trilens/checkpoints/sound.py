"""Every stored value is checked once, while it is being loaded: it has to be finite, and some tensors must not be all
zero.

Other damage (different finite values, a matrix that is partly zero) is only found with a published hash: see
`verified.py`.
"""

from __future__ import annotations

import numpy as np

from trilens.decoder.weights import Parameter

PIECE = 1 << 20  # values looked at together: small enough to stay in the processor's cache

# Bits of a 16- or 32-bit float, shifted left by one so that the sign is gone: an infinity and every NaN are as large as
# this or larger.
INFINITE_HALF, INFINITE_BFLOAT, INFINITE_FLOAT = 0xF800, 0xFF00, 0xFF000000

# Quantised types: bytes of a block, and where in it the halves lie that everything else is multiplied with.
HALVES = {
    "Q4_0": (18, (0,)),
    "Q4_1": (20, (0, 2)),
    "Q5_0": (22, (0,)),
    "Q5_1": (24, (0, 2)),
    "Q8_0": (34, (0,)),
    "Q8_MIN": (36, (0, 2)),
    "NF4": (18, (0,)),
    "FP4": (18, (0,)),
    "Q2_K": (84, (80, 82)),
    "Q3_K": (110, (108,)),
    "Q4_K": (144, (0, 2)),
    "Q5_K": (176, (0, 2)),
    "Q6_K": (210, (208,)),
    "IQ1_S": (50, (0,)),
    "IQ2_XXS": (66, (0,)),
    "IQ2_XS": (74, (0,)),
    "IQ2_S": (82, (0,)),
    "IQ3_XXS": (98, (0,)),
    "IQ3_S": (110, (0,)),
    "IQ4_NL": (18, (0,)),
    "IQ4_XS": (136, (0,)),
}
MAY_BE_ZERO = (".bias", ".correction_bias", ".expert_scale", ".scalar", ".sinks")
NOT_FINITE = "contains a value that is not finite (NaN or infinity)"
ALL_ZERO = "is zero everywhere, which does not occur in a trained model"


def fault_of_blocks(rows: np.ndarray, kind: str) -> str | None:
    """What is wrong with rows of blocks, uint8 [n, bytes of a row] of type `kind`; None where every scale, minimum and
    float is finite."""
    flat = np.ascontiguousarray(rows).reshape(-1)
    match kind:
        case "F32":
            sound = _below(flat.view(np.uint32), INFINITE_FLOAT)
        case "F16":
            sound = _below(flat.view(np.uint16), INFINITE_HALF)
        case "BF16":
            sound = _below(flat.view(np.uint16), INFINITE_BFLOAT)
        case "MXFP4":  # a power of two, of which 255 is NaN
            sound = not (flat[::17] == 255).any()
        case "NVFP4":  # a float, then two bytes of E4M3, of which 127 and 255 are NaN
            whole = flat.reshape(-1, 22)
            sound = _below(np.ascontiguousarray(whole[:, :4]).view(np.uint32), INFINITE_FLOAT)
            sound = sound and not (whole[:, 4:6] & 127 == 127).any()
        case "F8_E4M3":  # a float, then 32 bytes, of which 127 and 255 are NaN
            whole = flat.reshape(-1, 36)
            sound = _below(np.ascontiguousarray(whole[:, :4]).view(np.uint32), INFINITE_FLOAT)
            sound = sound and not (whole[:, 4:] & 127 == 127).any()
        case "IQ1_M":  # the half's bits lie in the highest four of four words
            words = np.ascontiguousarray(flat.reshape(-1, 56)[:, 48:]).view("<u2") >> np.uint16(12)
            sound = _below((words << np.arange(0, 16, 4, dtype=np.uint16)).sum(-1, dtype=np.uint16), INFINITE_HALF)
        case _:
            nbytes, places = HALVES[kind]
            block = np.dtype(
                {
                    "names": [str(p) for p in places],
                    "formats": ["<u2"] * len(places),
                    "offsets": places,
                    "itemsize": nbytes,
                }
            )
            blocks = flat.view(block)
            sound = all(_below(np.ascontiguousarray(blocks[str(place)]), INFINITE_HALF) for place in places)
    return None if sound else NOT_FINITE


def fault_of_values(values: np.ndarray, p: Parameter) -> str | None:
    """The same for a parameter's values, float32 in its shape. Also finds zeros in a parameter that must not be all
    zero.
    """
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint32)
    if not all(_below(flat[at : at + PIECE], INFINITE_FLOAT) for at in range(0, flat.size, PIECE)):
        return NOT_FINITE
    if not says_something(p):
        return None
    matrices = values if values.ndim == 3 else values[None]
    return None if all(matrix.any() for matrix in matrices) else ALL_ZERO


def says_something(p: Parameter) -> bool:
    """Whether the parameter is a matrix or a norm's weight, which would disable its branch if it were zero everywhere.
    Biases, sinks and learned factors may be zero.
    """
    return not p.name.endswith(MAY_BE_ZERO)


def _below(bits: np.ndarray, infinite: int) -> bool:
    """`bits` as unsigned integers, which are sign, exponent and mantissa: all of them finite?"""
    return not bits.size or int((bits << bits.dtype.type(1)).max()) < infinite
