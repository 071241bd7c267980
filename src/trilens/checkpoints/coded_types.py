"""Matrices of codes: the types that quantised safetensors files have, and what each becomes in memory.

    value = scale * (level - zero) + minimum

A level is what a code stands for: itself, or an entry of a table. Codes of `bits` are stored without a sign, so INT4's
8 is zero. The type says what lies beside the codes:

    INTb            a scale for each group of columns (or row, or matrix); the zero is 2 ** (b - 1)
    INTb_ZERO       a scale and a whole number, the zero
    INTb_MIN        a scale and a minimum
    ..._SCATTERED   the same, but 32 neighbouring columns do not share their scale: small groups, or columns in an order
                    of their own (act_order)
    NF4, FP4        a scale for 64 values; bitsandbytes' two tables of 16 levels
    NVFP4           an E4M3 byte for 16 columns and a float for the matrix; levels of E2M1
    MXFP4           a power of two for 32 columns; levels of E2M1
"""

from typing import NamedTuple

NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
_FP4 = (0.0, 1 / 192, 2 / 3, 1.0, 1 / 3, 1 / 2, 1 / 6, 1 / 4)
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FP4 = (*_FP4, *(-level for level in _FP4))
E2M1 = (*_E2M1, *(-level for level in _E2M1))


class CodedType(NamedTuple):
    """`native`: the type in memory of rows of whole blocks of 32. `otherwise`: where rows cannot be kept as they are.
    `levels`: None where a code stands for itself."""

    bits: int
    native: str
    otherwise: str
    levels: tuple[float, ...] | None = None


def _integers(bits: int) -> dict[str, CodedType]:
    name, four = f"INT{bits}", bits <= 4
    otherwise = "Q8_0" if four else "F16"
    with_minimum = "Q4_1" if four else "Q8_MIN"
    return {
        name: CodedType(bits, "Q4_0" if four else "Q8_0", otherwise),
        f"{name}_ZERO": CodedType(bits, with_minimum, otherwise),
        f"{name}_MIN": CodedType(bits, with_minimum, otherwise),
        f"{name}_SCATTERED": CodedType(bits, otherwise, otherwise),
    }


CODED: dict[str, CodedType] = {
    **{name: kind for bits in (2, 3, 4, 5, 6, 8) for name, kind in _integers(bits).items()},
    "NF4": CodedType(4, "NF4", "Q8_0", NF4),
    "NF4_SCATTERED": CodedType(4, "Q8_0", "Q8_0", NF4),
    "FP4": CodedType(4, "FP4", "Q8_0", FP4),
    "FP4_SCATTERED": CodedType(4, "Q8_0", "Q8_0", FP4),
    "NVFP4": CodedType(4, "NVFP4", "Q8_0", E2M1),
    "MXFP4": CodedType(4, "MXFP4", "MXFP4", E2M1),
}
