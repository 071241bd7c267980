"""Valid inputs to start from, small and made by code: the same on every machine."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import gguf

from fuzz.formats import ARRAY, BOOL, F32, STRING, U32, Gguf, Key, Tensor, field
from fuzz.mutate import as_json
from fuzz.weights import safetensors_file, stored
from trilens.checkpoints import names
from trilens.errors import TrilensError
from trilens.spec.gguf import Source, read_gguf_metadata
from trilens.spec.huggingface import read_config

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "src" / "trilens" / "models" / "tiny-dense"
SPACE = "\u2581"
TURN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"

# ---------------------------------------------------------------------------------------- configurations

# Every size that a config.json states, made small; lists by layer are cut to four.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "dim"), 64),
    **dict.fromkeys(
        ("intermediate_size", "intermediate_size_mlp", "hidden_dim", "shared_expert_intermediate_size"), 96
    ),
    **dict.fromkeys(("moe_intermediate_size", "expert_hidden_dim", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_heads"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 8),
    **dict.fromkeys(("num_experts_per_tok", "top_k_experts"), 2),
    **dict.fromkeys(("head_dim", "qk_nope_head_dim", "v_head_dim"), 16),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 32),
    "num_key_value_heads": 2,
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "qk_rope_head_dim": 8,
    "vocab_size": 96,
    "vocab_size_per_layer_input": 96,
    "hidden_size_per_layer_input": 32,
    "first_k_dense_replace": 1,
    "sliding_window": 8,
    "num_kv_shared_layers": 2,
    "query_pre_attn_scalar": 16,
    "attention_chunk_size": 8,
}


def shrunk(config: Any, layers: int = 0) -> Any:
    """A published configuration with every size small and every mechanism still there."""
    if isinstance(config, list):
        return [shrunk(v) for v in (config[: 4 if len(config) == layers else None])]
    if not isinstance(config, dict):
        return config
    layers = config.get("num_hidden_layers") or layers
    out = {}
    for name, value in config.items():
        is_size = name in SIZES and isinstance(value, int) and not isinstance(value, bool)
        out[name] = min(SIZES[name], value) if is_size else shrunk(value, layers)
    return out


@cache
def published() -> dict[str, dict[str, Any]]:
    """The configurations that the tests know, by the model's name, vision and sound left out."""
    rows = json.loads((ROOT / "tests" / "data" / "configs.json").read_bytes())
    beside = ("vision_config", "audio_config", "quantization_config")
    return {name: {k: v for k, v in row["config"].items() if k not in beside} for name, row in rows.items()}


def configs() -> list[bytes]:
    """Of every family that is known here, made small; a few as published, too large to be run."""
    own = [config for name, config in published().items() if not name.endswith(".params")]
    found = [as_json(shrunk(config)) for config in own] + [as_json(config) for config in own[:20:4]]
    return [data for data in dict.fromkeys(found) if _is_known(data)]


def params() -> list[bytes]:
    own = [config for name, config in published().items() if name.endswith(".params")]
    return [as_json(shrunk(one)) for one in own]


def _is_known(config: bytes) -> bool:
    try:
        return not read_config(json.loads(config)).unread
    except TrilensError:
        return False


# ----------------------------------------------------------------------------------------------- weights

# What is written beside the tensors that are fuzzed; its tokenizer is the second of `tokenizer_json`.
DENSE = shrunk(json.loads((TINY / "config.json").read_bytes())) | {"num_hidden_layers": 2}
DENSE |= {"model_type": "qwen3", "hidden_size": 32, "intermediate_size": 64, "head_dim": 16, "vocab_size": 292}


def safetensors() -> list[bytes]:
    tensors = stored(read_config(DENSE).spec, names.HUGGINGFACE)
    return [safetensors_file(tensors, kind) for kind in ("F32", "F16", "BF16")]


# -------------------------------------------------------------------------------------------------- GGUF

COMMON = {
    "context_length": 128,
    "embedding_length": 32,
    "block_count": 2,
    "feed_forward_length": 64,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 16,
    "attention.value_length": 16,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 10000.0,
    "rope.dimension_count": 16,
}
EXPERTS = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}
YARN = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 32,
}
LATENT = {
    "attention.head_count_kv": 1,
    "attention.kv_lora_rank": 32,
    "attention.key_length": 40,
    "attention.value_length": 32,
    "attention.key_length_mla": 24,
    "attention.value_length_mla": 16,
    "rope.dimension_count": 8,
    "leading_dense_block_count": 1,
    "expert_shared_count": 1,
    "expert_weights_scale": 1.5,
    "expert_weights_norm": True,
    "expert_gating_func": 2,
    "expert_group_count": 2,
    "expert_group_used_count": 1,
}
# (architecture, its keys, the type of its matrices, whether its head is a matrix of its own)
FILES: list[tuple[str, dict[str, Any], str, bool]] = [
    ("llama", {**COMMON, **YARN}, "F16", True),
    ("llama", COMMON, "Q8_0", False),
    ("qwen3moe", {**COMMON, **EXPERTS}, "Q4_0", True),
    ("gemma3", {**COMMON, "attention.sliding_window": 8, "block_count": 3}, "Q5_1", False),
    ("deepseek2", {**COMMON, **EXPERTS, **LATENT}, "F16", True),
    ("qwen3", COMMON, "Q4_1", False),
]


def gguf_files() -> list[bytes]:
    return [gguf_file(*row, tokenizer=("llama", "gpt2")[i % 2]) for i, row in enumerate(FILES)]


def gguf_file(arch: str, keys: Mapping[str, Any], kind: str, own_head: bool, tokenizer: str) -> bytes:
    words = sentencepiece_words() if tokenizer == "llama" else byte_words()
    metadata: dict[str, Any] = {"general.architecture": arch, "general.name": "tiny"}
    metadata |= {f"{arch}.{name}": value for name, value in keys.items()}
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(words), keys["embedding_length"])}
    if own_head:
        shapes["output.weight"] = shapes["token_embd.weight"]
    rows = names.BY_ARCHITECTURE.get(arch, names.GGUF)
    spec = read_gguf_metadata(metadata, Source(shapes, lambda name: []), "seed").spec
    tensors, data = [], b""
    for name, value in stored(spec, rows).items():
        # only weights of matrices are quantised, and only rows that fill their blocks
        fits = name.endswith(".weight") and value.ndim > 1 and value.shape[-1] % 32 == 0 and "gate_inp" not in name
        own = gguf.GGMLQuantizationType[kind if fits else "F32"]
        piece = gguf.quants.quantize(value, own).tobytes()
        tensors.append(Tensor(name, list(value.shape[::-1]), int(own), len(data)))
        data += piece + bytes(-len(piece) % 32)
    return Gguf([_key(n, v) for n, v in metadata.items()] + _tokenizer(tokenizer, words), tensors, data).bytes()


def _key(name: str, value: Any) -> Key:
    kinds = {bool: BOOL, int: U32, float: F32, str: STRING}
    return Key(name, kinds[type(value)], value)


def _tokenizer(model: str, words: list[str]) -> list[Key]:
    kinds = [2 if w == "<unk>" else 3 if w in ("<s>", "</s>") else 6 if w.startswith("<0x") else 1 for w in words]
    keys = [Key("tokenizer.ggml.model", STRING, model), Key("tokenizer.ggml.tokens", ARRAY, (STRING, words))]
    keys += [Key("tokenizer.ggml.token_type", ARRAY, (5, kinds)), Key("tokenizer.chat_template", STRING, TURN)]
    keys += [Key(f"tokenizer.ggml.{n}_token_id", U32, words.index(w)) for n, w in (("bos", "<s>"), ("eos", "</s>"))]
    if model == "llama":
        scores = [-float(i) for i in range(len(words))]
        return [*keys, Key("tokenizer.ggml.scores", ARRAY, (F32, scores))]
    merges = ["h e", "l l", "he ll", "\u0120 a"]
    return [*keys, Key("tokenizer.ggml.merges", ARRAY, (STRING, merges)), Key("tokenizer.ggml.pre", STRING, "smollm")]


# -------------------------------------------------------------------------------------------- tokenizers


def sentencepiece_words() -> list[str]:
    made = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    return [*made, SPACE, *"abcdefghijklmnopqrstuvwxyz", "he", "ll", "hell", SPACE + "a"]


def byte_words() -> list[str]:
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(i) for i in seen] + [chr(256 + i) for i in range(256 - len(seen))]
    return ["<unk>", "<s>", "</s>", *letters, "he", "ll", "hell", "\u0120a"]


def tokenizer_json() -> list[bytes]:
    """The tiny model's, smaller; a SentencePiece-like one; one of single words; one that has every kind of step."""
    own = json.loads((TINY / "tokenizer.json").read_bytes())
    added = [{"id": 0, "content": "<unk>", "special": True, "single_word": False, "lstrip": False, "rstrip": False}]
    added[0]["normalized"] = False
    words = sentencepiece_words()
    spaced = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
                {"type": "NFC"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [["h", "e"], ["l", "l"], ["he", "ll"], [SPACE, "a"]],
            "unk_token": "<unk>",
            "byte_fallback": True,
            "fuse_unk": True,
        },
    }
    model = {"type": "Unigram", "unk_id": 0, "vocab": [[w, -float(i)] for i, w in enumerate(words)]}
    unigram = {**spaced, "model": model}
    split = {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}|\s+|\w+"}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False, "trim_offsets": True}
    regex = {**own, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}}
    return [json.dumps(v, ensure_ascii=False).encode() for v in (own, spaced, unigram, regex)]


def tokenizer_model() -> list[bytes]:
    """SentencePiece's protobuf: pieces, the trainer's fields, the normalizer's."""
    found = []
    for unigram in (False, True):
        out = b""
        for i, word in enumerate(sentencepiece_words()):
            kind = 2 if i == 0 else 3 if i < 3 else 6 if word.startswith("<0x") else 1
            out += field(1, field(1, word.encode()) + b"\x15" + struct.pack("<f", -float(i)) + b"\x18" + bytes([kind]))
        trainer = b"\x18" + bytes([1 if unigram else 2]) + b"\x98\x02\x01"  # model_type, byte_fallback
        found.append(out + field(2, trainer) + field(3, field(1, b"identity") + b"\x18\x01\x20\x00"))
    return found


def tiktoken() -> list[bytes]:
    ranks = [bytes([i]) for i in range(256)] + [b"he", b"ll", b"hell", b" a"]
    return [b"".join(base64.b64encode(token) + b" %d\n" % i for i, token in enumerate(ranks))]


def tekken() -> list[bytes]:
    ranks = [bytes([i]) for i in range(256)] + [b"he", b"ll", b"hell", b" a"]
    vocab = [
        {"rank": i, "token_bytes": base64.b64encode(token).decode(), "token_str": token.decode("utf-8", "replace")}
        for i, token in enumerate(ranks)
    ]
    config = {"pattern": r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+", "default_vocab_size": 280}
    document = {"config": {**config, "default_num_special_tokens": 20, "version": "v3"}, "vocab": vocab}
    named = [{"rank": i, "token_str": s, "is_control": True} for i, s in enumerate(("<unk>", "<s>", "</s>", "[INST]"))]
    return [as_json(document), as_json({**document, "special_tokens": named})]


# ------------------------------------------------------------------------------ templates, prompts, requests


def templates() -> list[bytes]:
    own = json.loads((TINY / "tokenizer_config.json").read_bytes())["chat_template"]
    thinking = TURN + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>{% endif %}"
    tools = "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{% set ns = namespace(n=0) %}" + TURN
    macro = "{% macro say(m, n=2) %}{{ m.content | trim | replace('a', 'b') }}{% endmacro %}"
    loop = "{% for m in messages if m.role != 'x' %}{{ loop.index }}{{ say(m) }}{{ m['role'].upper()[:3] }}{% endfor %}"
    return [text.encode() for text in (own, TURN, thinking, tools, macro + loop)]


def prompts() -> list[bytes]:
    lines = [
        {"prompt": "Hello"},
        {"messages": [{"role": "user", "content": "Hello"}]},
        {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]},
        {
            "messages": [
                {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
            ]
        },
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
    ]
    return [b"\n".join(map(as_json, lines)), as_json("Hello"), as_json(lines[1]), as_json(lines[3])]


TOOL = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
ASK = {"model": "tiny-dense", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "properties": {}}}}


def chat_bodies() -> list[bytes]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [*ASK["messages"], {"role": "assistant", "content": None, "tool_calls": [call]}]
    turns.append({"role": "tool", "tool_call_id": "c", "content": "3"})
    full = {"temperature": 0.5, "top_p": 0.9, "seed": 1, "stop": ["x"], "n": 2, "logprobs": True, "top_logprobs": 2}
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "stream_options": {"include_usage": True}}
    return [
        as_json(body)
        for body in (
            ASK,
            {**ASK, **full},
            {**ASK, **extra, "stream": True},
            {**ASK, "messages": turns, "tools": [{"type": "function", "function": TOOL}], "tool_choice": "auto"},
            {**ASK, "response_format": SCHEMA, "reasoning_effort": "low"},
            {**ASK, "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
        )
    ]


def completion_bodies() -> list[bytes]:
    ask = {"model": "tiny-dense", "prompt": "Hello", "max_tokens": 4}
    more = {"stop": "x", "seed": 3}
    return [as_json(ask), as_json({**ask, **more}), as_json({**ask, "stream": True, "prompt": "a"})]


def response_bodies() -> list[bytes]:
    ask = {"model": "tiny-dense", "input": "Hello", "max_output_tokens": 4}
    turns = [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]
    called = [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]
    called.append({"type": "function_call_output", "call_id": "c", "output": "3"})
    tools = {"tools": [{"type": "function", **TOOL}], "tool_choice": "auto", "instructions": "Be kind."}
    more = {"reasoning": {"effort": "low"}, "text": {"format": {"type": "text"}}, "stream": True}
    return [as_json(b) for b in (ask, {**ask, "input": turns}, {**ask, "input": turns + called, **tools}, ask | more)]


def message_bodies() -> list[bytes]:
    used = [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]
    result = [{"type": "tool_result", "tool_use_id": "t", "content": "3"}]
    turns = [*ASK["messages"], {"role": "assistant", "content": used}, {"role": "user", "content": result}]
    tool = {"name": "f", "description": "d", "input_schema": TOOL["parameters"]}
    more = {"system": [{"type": "text", "text": "Be kind."}], "thinking": {"type": "enabled", "budget_tokens": 1024}}
    bodies = (ASK, {**ASK, **more, "max_tokens": 1030}, {**ASK, "messages": turns, "tools": [tool]})
    return [as_json(body) for body in (*bodies, {**ASK, "stream": True, "stop_sequences": ["x"]})]


def count_bodies() -> list[bytes]:
    beside = ("max_tokens", "stream", "stop_sequences")
    return [as_json({k: v for k, v in json.loads(b).items() if k not in beside}) for b in message_bodies()]
