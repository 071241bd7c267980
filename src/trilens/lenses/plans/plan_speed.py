"""The speed of a plan: predicted from measurements here, a roofline on accelerators, unknown elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from trilens.executors.accountant import count_parameters
from trilens.lenses.cards.source import CardSource
from trilens.lenses.costs.calibration import Calibration, calibration, key_of
from trilens.lenses.costs.forecast import Forecast, ThinkingLength, on_accelerators, on_this_machine, thinking_length
from trilens.lenses.costs.weight_format import Bits, bits_of, uniform
from trilens.lenses.machines.target import Target
from trilens.lenses.memory.job import Engine, Job


def forecast_of(
    source: CardSource,
    engine: Engine,
    at: Target,
    job: Job,
    quantise: str,
    weight_bytes: int,
    word: str | None,
    threads: int | None,
    say: Callable[[str], None],
    accepted: float = 1.0,
    adapter_numbers: int = 0,
) -> tuple[Forecast | None, str, ThinkingLength | None]:
    """(the forecast, why there is none, the thinking's length where there is any) of a model held in `weight_bytes`.

    `adapter_numbers`: of the matrices of the adapter that the calls use. They count where trilens runs the model.
    """
    assert source.reading is not None
    spec, known = source.reading.spec, Calibration()
    forecast, why_not = None, ""
    if engine == "trilens" and at.device is None:
        forecast, known = _here(source, job, quantise, weight_bytes, threads, say, adapter_numbers)
    elif at.device is None:
        why_not = f"only trilens's own speed is known on this machine, not {engine}'s"
    elif engine == "trilens":
        why_not = "trilens's native executor runs on CPUs"
    else:
        forecast = on_accelerators(spec, engine, job, _bits(source, quantise, weight_bytes), at, accepted)
    thinks = word is not None and word != "off"
    return forecast, why_not, thinking_length(word, known) if thinks and word is not None else None


def _bits(source: CardSource, quantise: str, weight_bytes: int) -> Bits:
    """As that format holds each part, else the same everywhere."""
    assert source.reading is not None
    spec, config = source.reading.spec, source.config or {}
    rules = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config") or {}
    name = quantise
    if quantise == "own":
        method = rules.get("quant_method")
        name = "bf16" if not rules and source.config is not None else method if method in ("fp8", "mxfp4") else ""
    if name in ("bf16", "fp8", "mxfp4"):
        return bits_of(spec, name)
    return uniform(weight_bytes, count_parameters(spec).total)


def _here(
    source: CardSource,
    job: Job,
    quantise: str,
    weight_bytes: int,
    threads: int | None,
    say: Callable[[str], None],
    adapter_numbers: int,
) -> tuple[Forecast, Calibration]:
    from trilens.executors.native.fuse import fuse
    from trilens.executors.native.record import record
    from trilens.lenses.cards.held import held_types
    from trilens.lenses.costs.predict import measurables_of, runner
    from trilens.lenses.machines.machine import measured
    from trilens.lenses.memory.own_memory import SMALL

    assert source.reading is not None
    spec = source.reading.spec
    types = held_types(source, None if quantise == "own" else quantise)
    program = fuse(record(spec))
    activations = "16bit" if count_parameters(spec).total < SMALL else "8bit"
    machine = measured(threads, measurables_of(program, types, activations), job.key_type, say=say)
    known = calibration(key_of(source.title, machine.threads, activations, job.key_type, weight_bytes))
    run = runner(
        *(spec, program, types, weight_bytes, machine),
        activations=activations,
        kv=job.key_type,
        overlap=known.overlap,
    )
    run = replace(run, adapter_numbers=adapter_numbers)
    return on_this_machine(run, job, known), known
