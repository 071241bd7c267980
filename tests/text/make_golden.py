"""Writes data/smollm2_golden.json.gz: the ids that llama.cpp's own tokenizer gives for `varied_texts()`.

    python -m tests.text.make_golden PATH/TO/SmolLM2-135M-Instruct.Q4_1.gguf

needs llama-cpp-python (made with 0.3.36), which is a C++ build of several minutes and so no part of the tests. Two
lists of one digest for each text (control tokens not parsed, and parsed), and the ids in full for the first 200.
"""

import ctypes
import gzip
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.text.varied import varied_texts

GOLDEN = Path(__file__).parent / "data" / "smollm2_golden.json.gz"
IN_FULL = 200


def digest(ids: Sequence[int]) -> str:
    """Short, but for 4,000 of them and no one who wants a collision it is enough."""
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:10]


def main(path: str) -> None:
    import llama_cpp

    quiet = llama_cpp.llama_log_callback(lambda *_: None)  # by a name, or it is collected while still in use
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    options = llama_cpp.llama_model_default_params()
    options.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(path.encode(), options)
    vocabulary = llama_cpp.llama_model_get_vocab(model)

    def tokenize(text: str, special: bool) -> list[int]:
        data = text.encode()
        ids = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(vocabulary, data, len(data), ids, len(ids), False, special)
        return list(ids[:count])

    texts = varied_texts()
    golden: dict[str, Any] = {"llama_cpp_python": llama_cpp.__version__}
    for name, special in (("plain", False), ("special", True)):
        ids = [tokenize(text, special) for text in texts]
        golden[name] = {"digests": "".join(map(digest, ids)), "ids": ids[:IN_FULL]}
    golden["texts"] = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    GOLDEN.write_bytes(gzip.compress(json.dumps(golden).encode(), mtime=0))
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
