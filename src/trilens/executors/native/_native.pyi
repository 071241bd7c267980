from typing import Any

Refused: type[Exception]
Pool: Any
Sequence: Any
Engine: Any
Table: Any

def instruction_sets() -> list[str]: ...
def types() -> dict[str, tuple[int, int]]: ...
def packed_bytes(type: str, count: int, rows: int, columns: int) -> int: ...
