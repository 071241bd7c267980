"""Whether the trilens that is installed here answers, and with the bits that every build gives.

    python wheels/answers.py [--write]

Runs the command line once for each model that comes with trilens, then compares a hash of logits and drawn tokens, for
every set of kernels that this processor has, with the one in bits.json. `--write` writes that file instead.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import trilens
from trilens import system
from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.load import open_model
from trilens.executors.executor import StepInput
from trilens.executors.native import _native
from trilens.generate.sampling import Sampler, Sampling

MODELS = ("tiny-dense", "tiny-routed")
FORMS = ((None, "16bit"), ("8bit", "16bit"), ("4bit", "8bit"))  # of weights and activations
NEEDED = {  # kernels by what the processor has, in Linux's words
    "avx2": {"avx2", "fma", "f16c"},
    "avx512": {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"},
    "neon": {"asimddp"},
}
BITS = Path(__file__).with_name("bits.json")
TOKENS = 96


def kernel_sets() -> list[str]:
    names: list[str] = _native.instruction_sets()
    return names


def case(model: str, weights: str | None, activations: str) -> str:
    return f"{model}, {weights or 'as stored'} weights, {activations} activations"


def bits(model: str, kernels: str, quantise: str | None, activations: str) -> str:
    """SHA-256 of the logits of a prompt in two pieces, then of one token at a time, and of what a sampler draws."""
    files = open_model(find(model))
    try:
        executor = native_executor(files, threads=2, quantise=quantise, activations=activations, kernels=kernels)
    finally:
        files.checkpoint.close()
    text = [(7 * i * i + 3 * i + 5) % executor.spec.vocab for i in range(TOKENS)]
    found = hashlib.sha256()
    sequence = executor.sequence(TOKENS)
    sampler = Sampler(Sampling(temperature=0.8, top_k=40, top_p=0.95, repetition_penalty=1.1, seed=17), text)
    for first, end in ((0, 61), (61, 80), *((i, i + 1) for i in range(80, TOKENS))):
        logits = executor.step([StepInput(sequence, text[first:end])], every_row=True)
        found.update(logits.astype("<f4").tobytes())
        found.update(struct.pack("<i", sampler.choose(logits[-1])))
    sequence.free()
    return found.hexdigest()


def main() -> int:
    print(trilens.__version__, platform.python_version(), platform.system(), platform.machine(), _native.__file__)
    here = shlex.split(os.environ.get("TRILENS_PYTHON", "")) or [sys.executable]  # an emulator is not in the latter
    for model in MODELS:
        asked = [*here, "-m", "trilens", "run", "What is 14 plus 25?", "--model", model, "--temperature", "0"]
        done = subprocess.run([*asked, "--max-tokens", "24"], capture_output=True, text=True, encoding="utf-8")
        print(f"{model}: {done.stdout.strip()!r}")
        if done.returncode or not done.stdout.strip():
            print(done.stderr, file=sys.stderr)
            return 1
    sets = kernel_sets()
    found = {
        case(model, weights, activations): {name: bits(model, name, weights, activations) for name in sets}
        for model in MODELS
        for weights, activations in FORMS
    }
    if sys.argv[1:] == ["--write"]:
        BITS.write_text(json.dumps({at: hashes["portable"] for at, hashes in found.items()}, indent=1) + "\n")
    expected = json.loads(BITS.read_text())
    wrong = [f"{at}, {name}" for at, hashes in found.items() for name, h in hashes.items() if h != expected[at]]
    print(f"{len(found) * len(sets) - len(wrong)} of {len(found) * len(sets)} hashes as expected; kernels {sets}")
    features = system.processor_features() or set()
    of_arm = platform.machine() in ("aarch64", "arm64")  # an emulator may show the features of the processor below
    missing = [n for n, needs in NEEDED.items() if needs <= features and (n == "neon") == of_arm and n not in sets]
    if missing:
        print(f"no kernels for {missing}, which this processor has", file=sys.stderr)
    if wrong:
        print("other bits: " + "; ".join(wrong), file=sys.stderr)
    return 1 if wrong or missing else 0


if __name__ == "__main__":
    sys.exit(main())
