"""`trilens bench --share`: a measurement as rows in the form of benchmarks/published.csv, with what made it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trilens import system
from trilens.errors import UsageError

# Of benchmarks/published.csv.
COLUMNS = (
    "figure metric engine version when backend model format weight_bytes "
    "machine devices parallelism batch context source"
).split()


def append(path: Path, result: Mapping[str, Any]) -> None:
    """Two rows of `bench.measure`'s result: decoding and a prompt, the medians. A new file gets the head line. Raises
    UsageError for a file that holds something else."""
    rows = shared(result)
    try:
        with path.open("a+", encoding="utf-8", newline="") as file:
            file.seek(0)
            head = file.readline().strip()
            if head and head.split(",") != COLUMNS:
                raise UsageError(f"{path}: its first line is not that of benchmarks/published.csv; name another file")
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if not head:
                writer.writeheader()
            writer.writerows(rows)
    except OSError as problem:
        raise UsageError(f"{path}: cannot be written ({problem.strerror})") from None


def shared(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`machine` is the processor's name: a reviewer replaces it by a name of the list of machines, and `source` by the
    address where the row was proposed."""
    import trilens

    made = (
        f"{result['threads']} threads, {result['kernels']} kernels, {result['activations']} activations, "
        f"{result['memory_gb_s']} GB/s measured, best of the rounds {result['decode_tok_s']['best']} and "
        f"{result['prefill_tok_s']['best']}"
    )
    common = {
        "engine": result["engine"],
        "version": trilens.__version__,
        "when": datetime.now(UTC).strftime("%Y-%m"),
        "backend": "cpu",
        "model": result["model"],
        "format": result["quantise"] or "own",
        "weight_bytes": result["weight_bytes"],
        "machine": system.processor_name(),
        "devices": 1,
        "parallelism": "none",
        "source": f"measured: {made}",
    }
    decode, prompt = result["decode_tok_s"]["median"], result["prefill_tok_s"]["median"]
    return [
        {**common, "figure": decode, "metric": "decode", "batch": result["batch"], "context": result["context"]},
        {**common, "figure": prompt, "metric": "prefill", "batch": 1, "context": result["prompt"]},
    ]
