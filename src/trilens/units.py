"""Numbers for people: parameters, operations, bytes."""

from __future__ import annotations


def big(n: float) -> str:
    """134.5M, 8.03B, 1.03T: counts, with three or four digits."""
    return _scaled(n, (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)), "")


def flop(n: float) -> str:
    """269.1 MFLOP, 1.41 GFLOP: operations, a multiply-add counted as two."""
    return _scaled(n, ((" PFLOP", 1e15), (" TFLOP", 1e12), (" GFLOP", 1e9), (" MFLOP", 1e6), (" KFLOP", 1e3)), " FLOP")


def data(n: float) -> str:
    """98.4 MB, 16.06 GB: bytes, in powers of ten."""
    return _scaled(n, ((" TB", 1e12), (" GB", 1e9), (" MB", 1e6), (" KB", 1e3)), " B")


def _scaled(n: float, units: tuple[tuple[str, float], ...], plain: str) -> str:
    for unit, size in units:
        if n >= size:
            value = n / size
            return f"{value:.{2 if value < 10 else 1}f}{unit}"
    return f"{n:.0f}{plain}"
