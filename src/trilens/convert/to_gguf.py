"""A directory of safetensors as what a GGUF file holds: keys, tensors by llama.cpp's names, the tokenizer.

Only for families whose keys are known here. The new file must give the same spec as the directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import gguf
import numpy as np

from trilens.checkpoints import names
from trilens.checkpoints.find import Found
from trilens.checkpoints.load import ModelFiles, open_model
from trilens.convert.file_types import Facts
from trilens.convert.write_gguf import Source
from trilens.decoder.weights import Parameter, decoder_weights, parameters
from trilens.errors import UnsupportedModel
from trilens.files import read_json_object
from trilens.spec.model import Attention, LinearScaling, Llama3Scaling, Rope
from trilens.spec.rope import rope_table
from trilens.text.pretokenizers import PRETOKENIZERS
from trilens.text.tokenizer import Tokenizer

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
}
NEIGHBOURING = ("attention.q", "attention.k")  # of "llama": rotary pairs lie side by side there
# Words, digits, spaces, signs and scripts: where two ways to cut a text differ, some of this shows it.
PROBE = (
    "Hello  world! It's 3.14159 or 1,234,567;\n\n\tI'LL've been\r\n   there...  'S 12 Ünïcödé naïve"
    " ЁЖИК ελληνικά 漢字かな交じり文 한국어 شكرا हिन्दी 🙂👍🏽 def f(x): return x**2 != y//3\n a\u00a0b e\u0301 ½ ²"
)


@contextmanager
def directory_source(found: Found) -> Iterator[Source]:
    """Raises UnsupportedModel for a family or a tokenizer that cannot be written, and what `open_model` raises."""
    config = read_json_object(found.path / "config.json")
    family = str(config.get("model_type"))
    arch = ARCHITECTURES.get(family)
    if arch is None or config.get("use_sliding_window") or (family == "mistral" and config.get("sliding_window")):
        known = ", ".join(ARCHITECTURES)
        raise UnsupportedModel(
            f"{found.path}: a model of the family {family!r} cannot be written as GGUF here; known are {known} "
            "without windows. Give a GGUF file of it instead, in F16 for instance"
        )
    files = open_model(found)
    try:
        attention, rope = _attention(files)
        tensors = {_name(parameter, arch): parameter for parameter in parameters(decoder_weights(files.spec))}
        shapes = {name: parameter.shape for name, parameter in tensors.items()}
        types = {name: files.type_of(parameter) for name, parameter in tensors.items()}
        divisors = _divisors(rope)
        if isinstance(rope.scaling, Llama3Scaling):
            shapes["rope_freqs.weight"], types["rope_freqs.weight"] = divisors.shape, "F32"

        def read(name: str) -> np.ndarray:
            if name == "rope_freqs.weight":
                return divisors
            values = files.read(tensors[name])
            return _neighbouring(values, tensors[name], attention) if arch == "llama" else values

        shared = attention.heads // attention.cache.kv_heads
        facts = Facts(arch, len(files.spec.layers), shared, int(config.get("num_experts") or 0))
        keys = partial(_write_keys, files=files, c=config, attention=attention, rope=rope)
        yield Source(found.path, facts, keys, shapes, types, read, files.spec)
    finally:
        files.checkpoint.close()


def _attention(files: ModelFiles) -> tuple[Attention, Rope]:
    """What all layers of these families have. Raises UnsupportedModel for positions that have no keys here."""
    mixer = files.spec.layers[0].mixer
    if isinstance(mixer, Attention) and (rope := mixer.rope) is not None and rope.dim == mixer.cache.key_dim:
        match rope.scaling:
            case None | LinearScaling() | Llama3Scaling():
                return mixer, rope
            case _:
                pass
    raise UnsupportedModel(
        f"{files.found.path}: its rotary positions cannot be written as GGUF here; known are default, linear and "
        "llama3, on whole heads"
    )


def _name(parameter: Parameter, arch: str) -> str:
    """llama.cpp's name of one of our parameters."""
    ours = parameter.name
    layer = ours.split(".")[1] if ours.startswith("layers.") else ""
    pattern = ours.replace(f"layers.{layer}.", "layers.{i}.", 1) if layer else ours
    base, bias = pattern.removesuffix(".bias"), pattern.endswith(".bias")
    for row in names.GGUF:
        if row.ours == base and not row.change:
            theirs = row.theirs.replace("{i}", layer)
            return theirs.removesuffix(".weight") + ".bias" if bias else theirs
    raise UnsupportedModel(f"{ours} has no place in a GGUF file of {arch}")


def _neighbouring(values: np.ndarray, parameter: Parameter, attention: Attention) -> np.ndarray:
    """Rows of queries and keys with rotary pairs side by side, not in halves."""
    inside = parameter.name.removesuffix(".bias").split(".", 2)[-1]
    if inside not in NEIGHBOURING:
        return values
    count = attention.heads if inside == "attention.q" else attention.cache.kv_heads
    parts = values.reshape(count, 2, values.shape[0] // count // 2, *values.shape[1:])
    return np.ascontiguousarray(parts.swapaxes(1, 2)).reshape(values.shape)


def _divisors(rope: Rope) -> np.ndarray:
    """What the scaling divides each rotary frequency by."""
    plain, scaled = rope_table(replace(rope, scaling=None), 0), rope_table(rope, 0)
    return np.divide(plain.frequencies, scaled.frequencies).astype(np.float32)


def _write_keys(w: gguf.GGUFWriter, files: ModelFiles, c: dict[str, Any], attention: Attention, rope: Rope) -> None:
    cache = attention.cache
    w.add_name(files.found.path.name)
    w.add_block_count(len(files.spec.layers))
    w.add_context_length(files.spec.context)
    w.add_embedding_length(files.spec.width)
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(attention.heads)
    w.add_head_count_kv(cache.kv_heads)
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_key_length(cache.key_dim)
    w.add_value_length(cache.value_dim)
    w.add_rope_dimension_count(rope.dim)
    w.add_rope_freq_base(rope.theta)
    w.add_vocab_size(files.spec.vocab)
    if isinstance(rope.scaling, LinearScaling):
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(rope.scaling.factor)
    if c.get("num_experts"):
        w.add_expert_count(c["num_experts"])
        w.add_expert_used_count(c["num_experts_per_tok"])
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])
    _write_tokenizer(w, files)


def _write_tokenizer(w: gguf.GGUFWriter, files: ModelFiles) -> None:
    path = files.found.path
    saved, config = read_json_object(path / "tokenizer.json"), read_json_object(path / "tokenizer_config.json")
    model = saved.get("model") or {}
    spaced = model.get("byte_fallback") or (saved.get("decoder") or {}).get("type") != "ByteLevel"
    if model.get("type") != "BPE" or spaced:
        raise UnsupportedModel(
            f"{path / 'tokenizer.json'}: only tokenizers of bytes and merges can be written as GGUF here; give a GGUF "
            "file of this model instead"
        )
    added = {int(entry["id"]): entry for entry in saved.get("added_tokens", ())}
    texts = {int(i): text for text, i in model["vocab"].items()} | {i: str(e["content"]) for i, e in added.items()}
    kinds = {True: gguf.TokenType.CONTROL, False: gguf.TokenType.USER_DEFINED}
    size = files.spec.vocab
    if max(texts) >= size:
        raise UnsupportedModel(
            f"{path}: its tokenizer has {max(texts) + 1} tokens and the model {size}; expected fewer"
        )
    tokens = [texts.get(i, f"[PAD{i}]") for i in range(size)]
    types = [
        kinds[bool(added[i]["special"])]
        if i in added
        else gguf.TokenType.NORMAL
        if i in texts
        else gguf.TokenType.UNUSED
        for i in range(size)
    ]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    read = Tokenizer.from_directory(path)
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in types],
        "tokenizer.ggml.merges": merges,
    }
    for name, number in (("bos", read.bos_id), ("eos", read.eos_id)):
        if number is not None:
            keys[f"tokenizer.ggml.{name}_token_id"] = number
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(_pre(keys, read, str(path)))
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(merges)
    if read.bos_id is not None:
        w.add_bos_token_id(read.bos_id)
    if read.eos_id is not None:
        w.add_eos_token_id(read.eos_id)
    w.add_add_bos_token(bool(read.add_bos))
    template = config.get("chat_template")
    if (path / "chat_template.jinja").is_file():
        template = (path / "chat_template.jinja").read_text("utf-8")
    if isinstance(template, list):
        template = next((t["template"] for t in template if t.get("name") == "default"), None)
    if isinstance(template, str):
        w.add_chat_template(template)


def _pre(keys: dict[str, Any], read: Tokenizer, path: str) -> str:
    """The name of the way to cut text into words with which the same ids come out. Raises UnsupportedModel."""
    expected, tried = read.encode(PROBE), set()
    for name, pre in PRETOKENIZERS.items():
        if pre in tried:
            continue
        tried.add(pre)
        if Tokenizer.from_gguf({**keys, "tokenizer.ggml.pre": name}).encode(PROBE) == expected:
            return name
    raise UnsupportedModel(f"{path}: its way to cut text into words has no name in GGUF that is known here")
