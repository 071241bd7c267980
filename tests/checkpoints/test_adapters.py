"""Adapters from files: the numbers of the reference with the same products merged into it, and clear errors."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.families import prompt, reference
from tests.gguf_models import Gguf, neighbouring, write
from tests.lora import Lora, lora, matrices, merged, save_gguf, some

from trilens.checkpoints.adapters import read_adapter
from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import native_executor
from trilens.checkpoints.into_torch import torch_executor
from trilens.checkpoints.load import ModelFiles, open_model
from trilens.errors import BadCheckpoint, ModelNotFound, TrilensError, UnsupportedModel
from trilens.executors.executor import StepInput

# Rotary halves; norms stored as a distance from one; norms of queries and keys with a tied head; fused and transposed
# matrices; attention beside experts; latent attention's two matrices in one; recurrences; constant factors; layers in
# pairs; a router that is multiplied with twice.
FAMILIES = (
    "llama 3",
    "gemma 3 (text)",
    "qwen3 tied, biases",
    "phi-3",
    "gpt-2",
    "mixtral",
    "deepseek v3",
    "qwen3-next",
    "falcon-h1",
    "nemotron-h",
    "deepseek v3.2",
    "longcat-flash",
    "gemma 3n (text)",
)
DIRECTIONS = (
    "q_proj",
    "v_proj",
    "o_proj",
    "down_proj",
    "up_proj",
    "c_attn",
    "qkv_proj",
    "kv_b_proj",
    "in_proj",
    "head",
)
Directory = Callable[[str], Path]
TOKENS = prompt(11, seed=2)


def opened(path: Path) -> ModelFiles:
    return open_model(find(str(path)))


def both_logits(files: ModelFiles, adapter: Path) -> list[torch.Tensor]:
    """[tokens, vocab] of the torch executor and of the native one."""
    made = read_adapter(files, "it", adapter)
    executors = torch_executor(files, None, [made]), native_executor(files, adapters=[made], kv="f32", threads=2)
    feeds = [StepInput(executor.sequence(12, "it"), TOKENS) for executor in executors]
    return [torch.from_numpy(e.step([feed], every_row=True)) for e, feed in zip(executors, feeds, strict=True)]


def expected(name: str, adapter: Lora) -> torch.Tensor:
    with torch.no_grad():
        return merged(reference(name), adapter)(torch.tensor([TOKENS]), use_cache=False).logits[0]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", FAMILIES)
def test_outputs_are_those_of_the_merged_model(name: str, seed: int, tiny_directory: Directory, tmp_path: Path) -> None:
    """Every matrix at once, or some kinds of modules, with ranks and scales of all kinds."""
    chance = random.Random(f"{name} {seed}")
    shapes = matrices(reference(name))
    wanted = shapes if not seed else some(shapes, chance.sample(DIRECTIONS, 6)) or shapes
    last = sorted({module.rpartition(".")[2] for module in wanted})
    ranks = {module: chance.choice((2, 5, 16)) for module in last[::2]} if seed else {}
    alphas = {last[-1]: 3.5} if seed else {}
    made = lora(
        wanted,
        lambda module: ranks.get(module.rpartition(".")[2], 4),
        seed,
        r=4,
        rank_pattern=ranks,
        alpha_pattern=alphas,
        use_rslora=bool(seed),
        lora_alpha=8 if seed else 1.5,
    )
    theirs = expected(name, made)
    for ours in both_logits(opened(tiny_directory(name)), made.save(tmp_path / "it")):
        assert (ours - theirs).abs().max() < 1e-4
    with torch.no_grad():
        plain = reference(name)(torch.tensor([TOKENS]), use_cache=False).logits[0]
    assert (plain - theirs).abs().max() > 1e-2  # it is felt


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_matrices_stay_at_their_size(dtype: torch.dtype, tiny_directory: Directory, tmp_path: Path) -> None:
    files, shapes = opened(tiny_directory("llama 3")), matrices(reference("llama 3"))
    made = lora(shapes, 8, seed=4)
    directory = made.save(tmp_path / "it", dtype)
    executor = native_executor(files, adapters=[read_adapter(files, "it", directory)], threads=1)
    numbers = sum(down.numel() + up.numel() for down, up in made.pairs.values())
    size = torch.empty(0, dtype=dtype).element_size()
    padded = sum(8 * inner + -(-out // 8) * 8 * 8 for out, inner in shapes.values())  # rows are filled up to eight
    assert executor.adapters["it"].parameters == numbers
    assert executor.adapter_bytes("it") == padded * size
    assert (both_logits(files, directory)[1] - expected("llama 3", made)).abs().max() < 1e-4


GGUFS = (Gguf("gguf: llama with biases", "llama"), Gguf("qwen3", "qwen3"), Gguf("gguf: mixtral", "llama"))
ALTUP = Gguf("gguf: gemma 3n", "gemma3n")
THEIRS = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}


@pytest.mark.parametrize("model", GGUFS, ids=str)
def test_both_layouts_on_a_gguf_model(model: Gguf, tiny_directory: Directory, tmp_path: Path) -> None:
    """Rows of queries and keys lie in llama.cpp's order in its files, and in transformers' in PEFT's."""
    name, source = model.family, tiny_directory(model.family)
    made = lora(some(matrices(reference(name)), list(THEIRS)), 6, seed=6, lora_alpha=5)
    files = opened(write(model, source, tmp_path / "model.gguf", wide=True))
    config = reference(name).config
    pairs = {}
    for module, (down, up) in made.pairs.items():
        layer, last = module.split(".")[2], module.rpartition(".")[2]
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(last)
        moved = neighbouring(up, heads) if heads and model.architecture == "llama" else up
        pairs[f"blk.{layer}.{THEIRS[last]}"] = down, moved
    theirs = expected(name, made)
    for adapter in (
        save_gguf(tmp_path / "adapter.gguf", model.architecture, pairs, 5.0),
        save_gguf(tmp_path / "half.gguf", model.architecture, pairs, 5.0, gguf.GGMLQuantizationType.F16),
        made.save(tmp_path / "peft"),
    ):
        for ours in both_logits(files, adapter):
            assert (ours - theirs).abs().max() < (1e-3 if "half" in adapter.name else 1e-4)
        assert len(read_adapter(files, "it", adapter).matrices) == len(pairs)


# ------------------------------------------------------------------------------------------- what is refused

Change = Callable[[Path], object]


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def changed(directory: Path) -> None:
        path = directory / "adapter_model.safetensors"
        found = load_file(path)
        change(found)
        save_file(found, path)

    return changed


def config(**more: Any) -> Change:
    def changed(directory: Path) -> None:
        path = directory / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **more}))

    return changed


def put(name: str, *shape: int) -> Change:
    """A tensor more."""
    return tensors(lambda found: found.update({name: torch.zeros(shape)}))


AT = "base_model.model.model.layers.1."
Q_A, Q_B = AT + "self_attn.q_proj.lora_A.weight", AT + "self_attn.q_proj.lora_B.weight"
REFUSED: Mapping[str, tuple[Change, type[TrilensError], str]] = {
    "DoRA": (config(use_dora=True), UnsupportedModel, "DoRA"),
    "DoRA's tensors": (put(AT + "self_attn.q_proj.lora_magnitude_vector", 48), UnsupportedModel, "magnitude.*DoRA"),
    "biases": (config(bias="all"), UnsupportedModel, "biases"),
    "lora_bias": (put(AT + "self_attn.q_proj.lora_B.bias", 48), UnsupportedModel, "q_proj.lora_B.bias"),
    "modules": (config(modules_to_save=["lm_head"]), UnsupportedModel, "modules_to_save"),
    "tokens": (config(trainable_token_indices=[3]), UnsupportedModel, "trainable_token_indices"),
    "layers": (config(layer_replication=[[0, 2]]), UnsupportedModel, "layer_replication"),
    "unknown": (config(use_whatever=[1]), UnsupportedModel, "'use_whatever'"),
    "another kind": (config(peft_type="IA3"), UnsupportedModel, "'IA3'.*only 'LORA'"),
    "embedding": (put("base_model.model.model.embed_tokens.lora_embedding_A", 4, 131), UnsupportedModel, "embedding"),
    "experts": (put(AT + "mlp.experts.3.up_proj.lora_A.weight", 4, 48), BadCheckpoint, "no lora_B beside it"),
    "rank": (config(r=5), BadCheckpoint, "_proj' have rank 4; the configuration says 5"),
    "no rank": (config(r=0), BadCheckpoint, "'r' is '0'; expected a whole number from 1"),
    "no number": (config(lora_alpha="many"), BadCheckpoint, "'lora_alpha' is 'many'"),
    "not finite": (config(lora_alpha=float("nan")), BadCheckpoint, "adapter_config.json"),
    "pattern": (config(alpha_pattern={"(a+)+b": 3}), BadCheckpoint, r"alpha_pattern has the pattern"),
    "NaN": (tensors(lambda t: t[Q_B].__setitem__((3, 1), float("nan"))), BadCheckpoint, f"'{Q_B}' contains a value"),
    "infinite": (tensors(lambda t: t[Q_A].__setitem__((0, 0), float("inf"))), BadCheckpoint, f"'{Q_A}' contains"),
    "rows": (tensors(lambda t: t.update({Q_B: t[Q_B][:-2].clone()})), BadCheckpoint, f"{Q_A}.* 46 rows"),
    "columns": (tensors(lambda t: t.update({Q_A: t[Q_A][:, 1:].clone()})), BadCheckpoint, f"{Q_A}.*47 columns"),
    "two ranks": (tensors(lambda t: t.update({Q_B: t[Q_B][:, 1:].clone()})), BadCheckpoint, f"{Q_B}' has 3 columns"),
    "flat": (tensors(lambda t: t.update({Q_A: t[Q_A].flatten()})), BadCheckpoint, f"{Q_A}' has the shape"),
    "one of two": (tensors(lambda t: t.pop(Q_B)), BadCheckpoint, f"{Q_A}' has no lora_B beside it"),
    "none": (tensors(lambda t: t.clear()), BadCheckpoint, "contains no LoRA tensors"),
    "no such layer": (
        tensors(lambda t: t.update({n.replace("layers.1", "layers.9"): t.pop(n) for n in (Q_A, Q_B)})),
        BadCheckpoint,
        "layers.9.self_attn.q_proj.*not a matrix of this model",
    ),
    "a norm": (
        tensors(lambda t: t.update({n.replace("self_attn.q_proj", "input_layernorm"): t.pop(n) for n in (Q_A, Q_B)})),
        BadCheckpoint,
        "input_layernorm.*not a matrix of this model",
    ),
    "another's expert": (
        tensors(lambda t: t.update({n.replace("self_attn.q", "mlp.experts.2.up"): t.pop(n) for n in (Q_A, Q_B)})),
        UnsupportedModel,
        "the matrices of experts",
    ),
    "what sees": (
        tensors(lambda t: t.update({n.replace("model.layers.1", "vision_tower.x"): t.pop(n) for n in (Q_A, Q_B)})),
        UnsupportedModel,
        "the part that sees",
    ),
    "no LoRA": (put(AT + "self_attn.q_proj.weight", 48, 48), BadCheckpoint, "q_proj.weight' is not part of a LoRA"),
    "a pickle": (
        lambda d: (d / "adapter_model.safetensors").rename(d / "adapter_model.bin"),
        BadCheckpoint,
        "is a pickle",
    ),
    "no tensors": (lambda d: (d / "adapter_model.safetensors").unlink(), BadCheckpoint, "no adapter_model.safetensors"),
    "no config": (lambda d: (d / "adapter_config.json").unlink(), BadCheckpoint, "no adapter_config.json"),
    "cut": (
        lambda d: (d / "adapter_model.safetensors").write_bytes((d / "adapter_model.safetensors").read_bytes()[:-9]),
        BadCheckpoint,
        "truncated or damaged",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_applied_is_refused_by_name(what: str, tiny_directory: Directory, tmp_path: Path) -> None:
    change, error, said = REFUSED[what]
    directory = lora(some(matrices(reference("llama 3")), ["q_proj", "down_proj"])).save(tmp_path / "it")
    files = opened(tiny_directory("llama 3"))
    assert read_adapter(files, "it", directory).matrices
    change(directory)
    with pytest.raises(error, match=said) as refused:
        read_adapter(files, "it", directory)
    assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)


@pytest.mark.parametrize("form", ["safetensors", "gguf"])
@pytest.mark.parametrize("module", ["altup_projections.0", "altup_projections.1", "altup_unembed_projections.1"])
def test_one_of_several_matrices_that_are_held_as_one(
    module: str, form: str, tiny_directory: Directory, tmp_path: Path
) -> None:
    """The matrices of Gemma 3n's residual streams, of either form of the model."""
    source = tiny_directory(ALTUP.family)
    files = opened(source if form == "safetensors" else write(ALTUP, source, tmp_path / "model.gguf"))
    directory = lora({f"model.{module}": (48, 48)}).save(tmp_path / "it")
    tensor = f"base_model.model.model.{module}.lora_A.weight"
    with pytest.raises(UnsupportedModel, match=f"'{tensor}' changes one of several matrices that are held as one"):
        read_adapter(files, "it", directory)


def test_several_matrices_that_are_held_as_one(tiny_directory: Directory, tmp_path: Path) -> None:
    """llama.cpp's names are those of the whole stack: of residual streams, and of the heads of latent attention."""
    for model, tensor, inner in (
        (ALTUP, "altup_proj", 48),
        (ALTUP, "altup_unembd_proj", 48),
        (Gguf("gguf: deepseek v3", "deepseek2"), "blk.1.attn_v_b", 32),
    ):
        files = opened(write(model, tiny_directory(model.family), tmp_path / f"{tensor}.gguf"))
        pairs = {tensor: (torch.ones(2, inner), torch.ones(48, 2))}
        adapter = save_gguf(tmp_path / "it.gguf", model.architecture, pairs, 4.0)
        with pytest.raises(UnsupportedModel, match=f"'{tensor}.weight.lora_a' changes several matrices that are held"):
            read_adapter(files, "it", adapter)


def test_an_adapter_of_another_model_is_refused(tiny_directory: Directory, tmp_path: Path) -> None:
    """Of every other family that has other names or shapes."""
    files = opened(tiny_directory("llama 3"))
    for name in ("gpt-2", "phi-3", "qwen3-next", "deepseek v3"):
        directory = lora(matrices(reference(name))).save(tmp_path / name)
        with pytest.raises(BadCheckpoint, match=r"tensor '.*another"):
            read_adapter(files, "it", directory)
    with pytest.raises(ModelNotFound, match="no such adapter"):
        read_adapter(files, "it", tmp_path / "nowhere")


def test_gguf_adapters_are_checked(tiny_directory: Directory, tmp_path: Path) -> None:
    base = opened(write(GGUFS[0], tiny_directory(GGUFS[0].family), tmp_path / "model.gguf"))
    pair = torch.ones(2, 48), torch.ones(48, 2)
    good = {"blk.0.attn_v": (torch.ones(2, 48), torch.ones(24, 2))}

    def refused(error: type[TrilensError], said: str, arch: str, pairs: Any, **keys: str) -> None:
        path = save_gguf(tmp_path / "it.gguf", arch, pairs, 4.0, **keys)
        with pytest.raises(error, match=said):
            read_adapter(base, "it", path)

    assert read_adapter(base, "it", save_gguf(tmp_path / "it.gguf", "llama", good, 4.0)).described().ranks == {
        "layers.0.attention.v": 2
    }
    refused(BadCheckpoint, "'qwen2', and the model is 'llama'", "qwen2", good)
    refused(BadCheckpoint, "expected 'adapter'", "llama", good, **{"general.type": "model"})
    refused(UnsupportedModel, "only 'lora'", "llama", good, **{"adapter.type": "other"})
    refused(BadCheckpoint, "blk.0.attn_v.weight.lora_a.* 48 rows", "llama", {"blk.0.attn_v": pair})
    refused(UnsupportedModel, "embedding", "llama", {"token_embd": pair})
    refused(UnsupportedModel, "experts", "llama", {"blk.0.ffn_up_exps": pair})
    refused(BadCheckpoint, "'blk.7.attn_v'", "llama", {"blk.7.attn_v": pair})
    with pytest.raises(UnsupportedModel, match="needs a GGUF model"):
        read_adapter(opened(tiny_directory("llama 3")), "it", tmp_path / "it.gguf")


@pytest.mark.parametrize("seed", range(8))
def test_damaged_files_never_raise_anything_else(seed: int, tiny_directory: Directory, tmp_path: Path) -> None:
    """Bytes changed anywhere, in the configuration and in both kinds of file."""
    chance = random.Random(seed)
    base = opened(write(GGUFS[0], tiny_directory(GGUFS[0].family), tmp_path / "model.gguf"))
    made = lora(some(matrices(reference(GGUFS[0].family)), ["q_proj"]), 2)
    directory = made.save(tmp_path / "it")
    pairs = {"blk.0.attn_v": (torch.ones(2, 48), torch.ones(24, 2))}
    packed = save_gguf(tmp_path / "it.gguf", "llama", pairs, 4.0)
    for path in (packed, directory / "adapter_config.json", directory / "adapter_model.safetensors"):
        whole = path.read_bytes()
        for _ in range(8):
            data = bytearray(whole)
            for _ in range(chance.choice((1, 1, 4))):
                data[chance.randrange(min(len(data), 600))] = chance.randrange(256)
            path.write_bytes(data)
            try:
                adapter = read_adapter(base, "it", packed if path == packed else directory)
            except TrilensError as problem:
                assert "\n" not in str(problem)
            else:
                assert all(np.isfinite(low.up).all() for low in adapter.matrices.values())
        path.write_bytes(whole)
