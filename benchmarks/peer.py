"""llama.cpp's speed on a GGUF file, by llama-cpp-python's low-level interface: one line of JSON.

python benchmarks/peer.py model.gguf --prompt 256 --decode 32 --threads 2 --repeat 3 --batch 1
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import llama_cpp

PIECE = 512  # tokens of a prompt in one call


class Peer:
    """A model and a context of llama.cpp, silent."""

    def __init__(self, path: str, threads: int, length: int, sequences: int) -> None:
        self.silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silence, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = length * sequences
        options.n_seq_max = sequences
        options.n_batch = options.n_ubatch = PIECE
        options.n_threads = options.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        self.batch = llama_cpp.llama_batch_init(PIECE, 0, 1)

    def forget(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def step(self, entries: Sequence[tuple[int, int, int, bool]]) -> None:
        """Entries are (token, position, sequence, whether its logits are wanted)."""
        self.batch.n_tokens = len(entries)
        for i, (token, position, sequence, wanted) in enumerate(entries):
            self.batch.token[i], self.batch.pos[i], self.batch.logits[i] = token, position, wanted
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, sequence
        failure = llama_cpp.llama_decode(self.context, self.batch)
        if failure:
            raise RuntimeError(f"llama_decode answered {failure}")
        if entries[-1][3]:
            llama_cpp.llama_get_logits_ith(self.context, -1)  # waits until they are there

    def read(self, prompt: int, sequence: int) -> None:
        """A prompt, in pieces of a batch; the logits of its last token."""
        entries = [(100 + i % 1000, i, sequence, i == prompt - 1) for i in range(prompt)]
        for at in range(0, prompt, PIECE):
            self.step(entries[at : at + PIECE])


def measure(path: str, prompt: int, decode: int, threads: int, repeat: int, batch: int) -> dict[str, Any]:
    start = time.perf_counter()
    peer = Peer(path, threads, prompt + decode + 8, batch)
    load_s = time.perf_counter() - start
    prefills, decodes = [], []
    for _ in range(repeat + 1):
        peer.forget()
        start = time.perf_counter()
        peer.read(prompt, 0)
        prefills.append(prompt / (time.perf_counter() - start))
        for other in range(1, batch):
            peer.read(prompt, other)
        start = time.perf_counter()
        for i in range(decode):
            peer.step([(100 + i, prompt + i, s, True) for s in range(batch)])
        decodes.append(batch * decode / (time.perf_counter() - start))
    return {
        "engine": "llama.cpp, llama-cpp-python " + llama_cpp.__version__,
        "model": path,
        "threads": threads,
        "batch": batch,
        "system": llama_cpp.llama_print_system_info().decode(),
        "load_s": round(load_s, 3),
        "prefill_tok_s": summary(prefills[1:]),
        "decode_tok_s": summary(decodes[1:]),
    }


def summary(rates: Sequence[float]) -> dict[str, float]:
    return {"best": round(max(rates), 2), "median": round(statistics.median(rates), 2)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    for option, default in (("prompt", 256), ("decode", 32), ("threads", 2), ("repeat", 3), ("batch", 1)):
        parser.add_argument(f"--{option}", type=int, default=default)
    given = parser.parse_args()
    print(json.dumps(measure(given.model, given.prompt, given.decode, given.threads, given.repeat, given.batch)))
