"""Matrices of codes in every layout: exact values, blocks made of the codes, damage, and whole models."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints.coded_files import BY_NAME, FORMS, Form, Tensors, gptq, mlx
from tests.executors.test_native import distance, taken_routes, takes_16_bits, torch_logits

from trilens.checkpoints.coded_types import CODED
from trilens.checkpoints.codes import rows_of
from trilens.checkpoints.configured import configured
from trilens.checkpoints.find import find
from trilens.checkpoints.into_native import blocks_of_bytes, native_executor
from trilens.checkpoints.into_torch import torch_executor
from trilens.checkpoints.load import ModelFiles, open_model
from trilens.checkpoints.quantised import Rules
from trilens.checkpoints.safetensors import SafetensorsCheckpoint, read_safetensors
from trilens.decoder.weights import decoder_weights, parameters
from trilens.errors import BadCheckpoint, TrilensError, UnsupportedModel
from trilens.executors.executor import StepInput
from trilens.executors.native import _native
from trilens.executors.native.matrices import native_types
from trilens.lenses.cards.card import card
from trilens.lenses.cards.held import KEPT, held_types
from trilens.lenses.cards.source import card_source
from trilens.lenses.cards.weights import own_bytes
from trilens.lenses.memory.own_memory import packed_bytes
from trilens.spec.huggingface import read_config

NAMES = sorted(BY_NAME)
SHAPES = ((8, 128), (24, 256), (64, 384))


def matrix(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(0.1)


def written(form: Form, tensors: Tensors, directory: Path, **config: Any) -> SafetensorsCheckpoint:
    save_file({name: t.contiguous() for name, t in tensors.items()}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({form.key: {**form.config, **config}}))
    return read_safetensors(directory)


# ------------------------------------------------------------------------------------------- single matrices


@pytest.mark.parametrize("block", [(128, 128), (64, 256), (32, 384)])
@pytest.mark.parametrize("lead", [(), (3,)])
def test_bytes_with_their_factors_are_the_values_for_every_layout_of_scales(
    lead: tuple[int, ...], block: tuple[int, int], tmp_path: Path
) -> None:
    rows, columns = 200, 416
    layouts: set[tuple[int, ...]] = {(), (1,), (*lead, rows), (*lead, rows, 1), (*lead, 1, 1), lead or (1, 1)}
    layouts.add((*lead, -(-rows // block[0]), -(-columns // block[1])))
    random = np.random.default_rng(5)
    codes = torch.from_numpy(random.standard_normal((*lead, rows, columns), np.float32)).to(torch.float8_e4m3fn)
    for shape in layouts:
        scale = torch.from_numpy(np.array(random.uniform(0.001, 1, shape), np.float32))
        save_file({"x.weight": codes, "x.weight_scale": scale}, tmp_path / "model.safetensors")
        checkpoint = read_safetensors(tmp_path / "model.safetensors", Rules(block=block))
        assert checkpoint.shares_scales("x.weight")
        expected = checkpoint.read("x.weight").reshape(-1, columns)
        factors, wide = checkpoint.factors("x.weight"), codes.float().numpy().reshape(-1, columns)
        for first, stop in ((0, len(wide)), (8, 24), (rows - 5, rows)):
            blocks = blocks_of_bytes(checkpoint, "x.weight", columns)(first, stop)[0]
            each = np.repeat(factors(first, stop), 128, 1)[:, :columns]
            assert np.array_equal(wide[first:stop] * each, expected[first:stop])
            out = np.empty((stop - first, columns), np.float32)
            _native.unpacked("F8_E4M3", blocks, out)
            assert np.array_equal(out, expected[first:stop])
        checkpoint.close()


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_that_the_layout_describes(name: str, tmp_path: Path) -> None:
    form = BY_NAME[name]
    rows = 64 if name.startswith(("gptq", "auto-round", "awq")) else None  # whole words of zeros
    for seed, (n, columns) in enumerate(SHAPES):
        tensors, values = form.write("x", matrix((rows or n, columns), seed))
        checkpoint = written(form, tensors, tmp_path)
        assert checkpoint.tensors["x.weight"].type == form.type
        assert checkpoint.tensors["x.weight"].shape == values.shape
        assert np.abs(checkpoint.read("x.weight") - values).max() <= 1e-7 * np.abs(values).max()
        stored = [*checkpoint.tensors.values(), *checkpoint.scales.values()]
        assert sum(t.nbytes for t in stored) == sum(t.numel() * t.element_size() for t in tensors.values())
        checkpoint.close()


@pytest.mark.parametrize("name", [form.name for form in FORMS if form.exact])
def test_blocks_are_the_codes_and_nothing_is_rounded(name: str, tmp_path: Path) -> None:
    form = BY_NAME[name]
    tensors, values = form.write("x", matrix((64, 256)))
    checkpoint = written(form, tensors, tmp_path)
    rows = rows_of(checkpoint, checkpoint.coded["x.weight"])
    for first, stop in ((0, 64), (8, 24), (3, 5)):  # any rows, not only whole words of them
        blocks = rows(first, stop).blocks(form.native)
        out = np.empty((stop - first, 256), np.float32)
        _native.unpacked(form.native, np.ascontiguousarray(blocks), out)
        assert np.abs(out - values[first:stop]).max() <= 1e-7 * np.abs(values).max()


@pytest.mark.parametrize("name", [form.name for form in FORMS if not form.exact and form.native in ("Q4_1", "Q8_MIN")])
def test_a_zero_becomes_a_minimum_within_a_part_of_a_step(name: str, tmp_path: Path) -> None:
    form = BY_NAME[name]
    tensors, values = form.write("x", matrix((64, 256)))
    checkpoint = written(form, tensors, tmp_path)
    codes = rows_of(checkpoint, checkpoint.coded["x.weight"])(0, 64)
    out = np.empty((64, 256), np.float32)
    _native.unpacked(form.native, np.ascontiguousarray(codes.blocks(form.native)), out)
    step = np.repeat(codes.scales, 256 // codes.scales.shape[1], 1)
    assert (np.abs(out - values) / step).max() < (1 / 130 if form.native == "Q4_1" else 1 / 8)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes_levels_are_rounded_by_less_than_a_two_hundredth(kind: str, tmp_path: Path) -> None:
    form = BY_NAME[f"bitsandbytes {kind} nested"]
    tensors, values = form.write("x", matrix((64, 256)))
    checkpoint = written(form, tensors, tmp_path)
    codes = rows_of(checkpoint, checkpoint.coded["x.weight"])(0, 64)
    out = np.empty((64, 256), np.float32)
    _native.unpacked(form.native, np.ascontiguousarray(codes.blocks(form.native)), out)
    assert (np.abs(out - values) / np.repeat(np.abs(codes.scales), 64, 1)).max() < 0.0045


@pytest.mark.parametrize("columns", [64, 96, 160])
def test_bitsandbytes_blocks_run_over_the_ends_of_rows(columns: int, tmp_path: Path) -> None:
    form = BY_NAME["bitsandbytes nf4"]
    tensors, values = form.write("x", matrix((10, columns)))
    checkpoint = written(form, tensors, tmp_path)
    assert checkpoint.tensors["x.weight"].type == "NF4"
    assert np.abs(checkpoint.read("x.weight") - values).max() < 1e-6 * np.abs(values).max()


def test_another_version_of_gptq_has_other_zeros(tmp_path: Path) -> None:
    form = gptq(4, 64, False)
    tensors, values = form.write("x", matrix((64, 128)))
    read = written(form, tensors, tmp_path, checkpoint_format="gptq_v2").read("x.weight")
    scales = np.repeat(tensors["x.scales"].float().numpy().T, 64, 1)
    off = (read - values) / scales
    assert set(np.rint(off).ravel()) <= {1.0, -15.0} and (np.rint(off) == 1).any()  # a stored -1 wraps around


def test_mlx_layers_with_groups_of_their_own(tmp_path: Path) -> None:
    default, own = mlx(4, 64), mlx(8, 32)
    tensors, values = own.write("a.b", matrix((8, 128)))
    others, rest = default.write("a.c", matrix((8, 128), 1))
    config = {"a.b": {"group_size": 32, "bits": 8}, "a.d": False}
    checkpoint = written(default, {**tensors, **others}, tmp_path, **config)
    assert np.array_equal(checkpoint.read("a.b.weight"), values)
    assert np.array_equal(checkpoint.read("a.c.weight"), rest)


# ------------------------------------------------------------------------------------------- damage

DAMAGED = ("packed 4 group 32 sym", "packed 4 group 128 asym", "bytes 8 group 128 asym", "gptq 4 64 sym act")
DAMAGED += ("gptq 4 32 asym", "awq 32", "mlx 4 64", "nvfp4 modelopt", "nvfp4 compressed", "mxfp4 compressed")
DAMAGED += ("bitsandbytes nf4 nested", "int8")


def damages(tensors: Tensors) -> list[tuple[str, str, Tensors]]:
    """(the part, what is wrong, the tensors) for every part and fault that makes sense for it."""
    found = []
    for part, t in tensors.items():
        if "input" in part:  # not read
            continue
        faults: dict[str, torch.Tensor | None] = {"missing": None, "of another type": t.float().to(torch.float64)}
        if t.dim() and t.numel() > 1:
            faults["cut"] = t[:-1].contiguous()
            faults["without rows"] = t[:0].contiguous()
            faults["with one dimension more"] = t.unsqueeze(0)
        if t.dim() == 2:
            faults["narrower"] = t[:, :-1].contiguous()
        if t.is_floating_point():
            for bad in (torch.nan, torch.inf):
                damaged = t.float().clone()
                damaged.view(-1)[-1] = bad
                if t.dtype != torch.float8_e4m3fn or bad is torch.nan:
                    faults[f"with {bad}"] = damaged.to(t.dtype)
        if part.endswith("g_idx"):
            faults["outside"], faults["below zero"] = t + 99, t - 1
        found += [(part, what, {**tensors, part: bad}) for what, bad in faults.items()]
    return [(part, what, {n: t for n, t in new.items() if t is not None}) for part, what, new in found]


@pytest.mark.parametrize("name", DAMAGED)
def test_every_damage_is_one_error_that_names_a_tensor(name: str, tmp_path: Path) -> None:
    form = next(form for form in FORMS if form.name == name)
    tensors, values = form.write("x", matrix((64, 256)))
    for part, what, damaged in damages(tensors):
        if (part.endswith("g_idx") and what == "missing") or (part.endswith("__nf4") and "dimension" in what):
            continue
        try:
            checkpoint = written(form, damaged, tmp_path)
            read = checkpoint.read("x.weight")
        except (BadCheckpoint, UnsupportedModel) as problem:
            said = str(problem)
            assert "\n" not in said and "'x." in said, (part, what, said)
        else:
            # another matrix that is whole: the codes' own last row or column is missing
            assert what in ("cut", "narrower", "of another type"), (part, what)
            assert read.shape != values.shape or what == "of another type", (part, what)


def test_a_stacked_matrix_of_no_groups(tmp_path: Path) -> None:
    form = mlx(4, 64)
    tensors, _ = form.write("x", matrix((8, 128)))
    for part in ("x.scales", "x.biases"):
        tensors[part] = tensors[part][:, :0].contiguous()
    with pytest.raises(BadCheckpoint, match=r"'x\.scales' of F16 \[8, 0\] does not fit 'x\.weight'"):
        written(form, tensors, tmp_path)


def test_sym_and_desc_act_must_be_true(tmp_path: Path) -> None:
    form = gptq(4, 64, False)
    tensors, _ = form.write("x", matrix((64, 128)))
    with pytest.raises(BadCheckpoint, match=r"'x\.qzeros' has other zeros than 8, but the configuration's sym is true"):
        written(form, tensors, tmp_path, sym=True).read("x.weight")
    tensors, _ = gptq(4, 64, True, act=True).write("x", matrix((64, 128)))
    with pytest.raises(BadCheckpoint, match=r"'x\.g_idx' reorders columns, but the configuration's desc_act is false"):
        written(gptq(4, 64, True), tensors, tmp_path).read("x.weight")


# ------------------------------------------------------------------------------------------- whole models


@lru_cache(maxsize=2)
def model(routed: bool) -> tuple[dict[str, Any], Tensors]:
    """A config and random tensors whose rows are whole blocks and groups."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3MoeConfig

    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"vocab_size": 160, "head_dim": 32, "intermediate_size": 256, "max_position_embeddings": 256}
    moe = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
    config = Qwen3MoeConfig(**sizes, **moe) if routed else LlamaConfig(**sizes)
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config).float()
    tensors = {}
    for name, t in made.state_dict().items():
        random = torch.randn(t.shape) * t.shape[-1] ** -0.5 if t.dim() > 1 else torch.ones(t.shape)
        if name.endswith("gate_up_proj"):
            for e in range(4):
                tensors[name.replace("gate_up_proj", f"{e}.gate_proj.weight")] = random[e, :128]
                tensors[name.replace("gate_up_proj", f"{e}.up_proj.weight")] = random[e, 128:]
        elif name.endswith("experts.down_proj"):
            for e in range(4):
                tensors[name.replace("down_proj", f"{e}.down_proj.weight")] = random[e]
        else:
            tensors[name] = random
    return {**config.to_dict(), "dtype": "float16"}, tensors


def quantised_model(form: Form, directory: Path, *, routed: bool = False) -> tuple[ModelFiles, Tensors]:
    """The model with its linear layers in that form, and the values that it then has."""
    config, plain = model(routed)
    ignored = "k_proj" if "ignore" in form.config and "re:.*self_attn.k_proj$" in form.config["ignore"] else "nothing"
    tensors, values = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
    for name, t in plain.items():
        linear = "proj" in name and ignored not in name
        if t.dim() == 2 and (linear or (form.everything and ("embed" in name or "lm_head" in name))):
            parts, held = form.write(name.removesuffix(".weight"), t.numpy())
            tensors |= parts
            values[name] = torch.from_numpy(held)
        else:
            tensors[name] = t.half()
            values[name] = t.half().float()
    save_file({name: t.contiguous() for name, t in tensors.items()}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({**config, form.key: form.config}))
    return open_model(find(str(directory))), values


def logits_agree(files: ModelFiles, form: Form, tokens: list[int]) -> dict[str, str]:
    """The native executor against torch in float32 on the same values; the type that it holds each matrix in."""
    executor = native_executor(files, kv="f32", activations="16bit", threads=1)
    executor.engine.trace_routes(True)
    got = executor.step([StepInput(executor.sequence(len(tokens)), tokens)], every_row=True)
    tensors = torch_executor(files).tensors
    routes = taken_routes(executor)
    expected = torch_logits(files.spec, tensors, tokens, chosen=routes or None, fine=takes_16_bits(executor))
    assert distance(got, expected) < form.within
    source = card_source(str(files.found.path), offline=True)
    assert source.reading is not None
    held = held_types(source)
    assert held == dict(executor.types)
    assert packed_bytes(source.reading.spec, held) == executor.weight_bytes
    return held


# Each type in the files and in memory once; the other forms of the same types are left to the slow suite.
ONE_OF_EACH = (
    *("packed 4 group 32 sym", "packed 4 group 128 asym", "packed 8 channel None asym", "bytes 8 tensor 0 sym"),
    *("gptq 4 128 sym", "gptq 4 64 sym act", "gptq 8 64 sym act", "auto-round 4 32 asym auto_round:auto_gptq"),
    *("awq 128", "mlx 4 64", "mlx 8 64", "nvfp4 modelopt", "nvfp4 compressed", "modelopt fp8", "mxfp4 compressed"),
    *("fp8 128 x 128", "fp8 64 x 64", "fp8 rows"),
    *("bitsandbytes nf4 nested", "bitsandbytes fp4 nested", "int8"),
)


@pytest.mark.parametrize("name", [n if n in ONE_OF_EACH else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_a_whole_model(name: str, tmp_path: Path) -> None:
    form = BY_NAME[name]
    files, values = quantised_model(form, tmp_path)
    for p in parameters(decoder_weights(files.spec)):
        want = values[files.stored[p.name].tensors[0]].numpy()
        assert np.abs(files.read(p) - want).max() <= 1e-7 * np.abs(want).max()
    held = logits_agree(files, form, [3, 1, 4, 1, 5, 9, 2, 6])
    assert set(held.values()) == {form.native} | (set() if form.everything else {"F16"})
    config = json.loads((tmp_path / "config.json").read_text())
    in_files = own_bytes(find(str(tmp_path)), None, files.spec)
    said = own_bytes(None, config, files.spec)
    states = sum(t.nbytes for n, t in files.checkpoint.stored.items() if ".quant_state." in n)  # type: ignore[attr-defined]
    assert in_files is not None and said is not None and in_files.bytes is not None and said.bytes is not None
    quantised = len(files.checkpoint.coded)  # type: ignore[attr-defined]
    # a second scale for 256 scales: small matrices round it up
    assert 0 <= in_files.bytes - states - said.bytes <= (4 * quantised if "nested" in name else 0)
    text = card(str(tmp_path), offline=True).as_text(200)
    assert f"are held as {form.native}" in text or form.native == form.type
    files.checkpoint.close()
    of_two_bytes = {"F16": "BF16"}  # the configuration alone does not tell which
    from_config = types_from(config, tmp_path / "only")
    assert {n: of_two_bytes.get(kind, kind) for n, kind in held.items()} == {
        n: of_two_bytes.get(kind, kind) for n, kind in from_config.items()
    }


def types_from(config: dict[str, Any], directory: Path) -> dict[str, str]:
    """What a plan says with nothing but the configuration."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    return held_types(card_source(str(directory / "config.json"), offline=True))


@pytest.mark.parametrize("name", ["packed 4 group 32 sym", "awq 128", "nvfp4 modelopt", "gptq 4 64 sym act"])
def test_experts_one_by_one(name: str, tmp_path: Path) -> None:
    files, _ = quantised_model(BY_NAME[name], tmp_path, routed=True)
    logits_agree(files, BY_NAME[name], [3, 1, 4, 1, 5, 9, 2, 6])
    files.checkpoint.close()


def test_mlx_experts_are_stacked(tmp_path: Path) -> None:
    form = mlx(4, 64)
    files, _ = quantised_model(form, tmp_path, routed=True)
    files.checkpoint.close()
    tensors = load_file(tmp_path / "model.safetensors")
    stacked: dict[str, list[torch.Tensor]] = {}
    for name in sorted(tensors):
        before, found, after = name.partition(".experts.")
        if found:
            stacked.setdefault(f"{before}.switch_mlp.{after.partition('.')[2]}", []).append(tensors.pop(name))
    tensors |= {name: torch.stack(parts) for name, parts in stacked.items()}
    apart = open_model(find(str(tmp_path)))
    expected = {p.name: apart.read(p) for p in parameters(decoder_weights(apart.spec))}
    apart.checkpoint.close()
    save_file(tensors, tmp_path / "model.safetensors")
    together = open_model(find(str(tmp_path)))
    for p in parameters(decoder_weights(together.spec)):
        assert np.array_equal(together.read(p), expected[p.name])
    logits_agree(together, form, [3, 1, 4, 1, 5])
    together.checkpoint.close()


def test_a_damaged_scale_stops_the_native_executor_too(tmp_path: Path) -> None:
    files, _ = quantised_model(BY_NAME["packed 4 group 32 sym"], tmp_path)
    files.checkpoint.close()
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight_scale"
    tensors[name][3, 1] = torch.inf
    save_file(tensors, tmp_path / "model.safetensors")
    for run in (native_executor, torch_executor):
        damaged = open_model(find(str(tmp_path)))
        with pytest.raises(BadCheckpoint, match=rf"tensor '{name}' contains a value that is not finite"):
            run(damaged)
        damaged.checkpoint.close()


def test_the_types_that_stay_are_those_with_kernels() -> None:
    assert set(KEPT) <= set(native_types())


def test_mlx_of_a_family_that_mlx_lm_rewrites_is_refused(tmp_path: Path) -> None:
    from tests.families import BY_NAME as FAMILIES

    (tmp_path / "config.json").write_text(
        json.dumps({**FAMILIES["qwen3-next"].config().to_dict(), "quantization": {"group_size": 64, "bits": 4}})
    )
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(TrilensError, match="mlx-lm stores the norms and convolutions of qwen3_next in another form"):
        open_model(find(str(tmp_path)))


def test_the_lists_of_kimi_k2_5_leave_all_but_the_experts_alone() -> None:
    source = card_source("kimi-k2.5", offline=True)
    assert source.reading is not None
    held = held_types(source)
    assert {kind for name, kind in held.items() if ".experts." in name} == {"Q4_0"}
    assert {kind for name, kind in held.items() if ".experts." not in name} == {"BF16"}
    own = own_bytes(None, source.config, source.reading.spec)
    experts = sum(p.size for p in parameters(decoder_weights(source.reading.spec)) if ".experts." in p.name)
    others = sum(p.size for p in parameters(decoder_weights(source.reading.spec)) if ".experts." not in p.name)
    shapes = 16 * 3 * 384 * 60  # weight_shape of every expert's matrix
    assert own is not None and own.bytes == experts // 2 + experts // 32 * 2 + shapes + 2 * others


@pytest.mark.parametrize(
    "pattern, kept",
    [
        ("model.layers.0.mlp.down_proj", {"layers.0.feed_forward.down"}),
        ("model.layers.0.mlp", {f"layers.0.feed_forward.{part}" for part in ("gate", "up", "down")}),
        ("re:.*layers\\.1\\..*o_proj$", {"layers.1.attention.out"}),
        ("model.layers.1.mlp*", {f"layers.1.feed_forward.{part}" for part in ("gate", "up", "down")}),
        ("language_model.model.layers.1.self_attn.q_proj", {"layers.1.attention.q"}),
        ("re:(", set()),
    ],
)
def test_modules_that_are_left_alone(pattern: str, kept: set[str], tmp_path: Path) -> None:
    form = BY_NAME["packed 4 group 32 sym"]
    config = {**model(False)[0], "quantization_config": {**form.config, "ignore": ["lm_head", pattern]}}
    held = types_from(config, tmp_path / "only")
    assert {name for name, kind in held.items() if kind == "BF16"} == {"embedding", "head", *kept}


ODD: tuple[Any, ...] = (None, [], {}, -1, 0, 7, 1.5, True, "x", [1], ["*", 3], {"a": []}, {"g": {"weights": 1}}, 10**30)


def with_odd_fields(config: Any) -> list[Any]:
    """The configuration with each of its fields, at any depth, replaced by each odd value."""
    found = []
    for key, value in config.items():
        found += [{**config, key: odd} for odd in ODD]
        if isinstance(value, dict):
            found += [{**config, key: inner} for inner in with_odd_fields(value)]
    return found


@pytest.mark.parametrize(
    "name", ["packed 4 group 32 sym", "gptq 4 64 sym act", "awq 128", "mlx 4 64", "nvfp4 modelopt", "bitsandbytes nf4"]
)
def test_odd_configurations_give_a_size_or_one_clear_error(name: str) -> None:
    form = BY_NAME[name]
    spec = read_config(model(False)[0], "config.json").spec
    some = [p for p in parameters(decoder_weights(spec)) if p.name.startswith("layers.0")]
    for odd in with_odd_fields(form.config):
        try:
            known = configured({form.key: odd}, spec, some, 2)
            sizes = [] if known is None else [of.bytes_of(p) for p in some if (of := known.form_of(p)) is not None]
        except TrilensError as problem:
            assert "\n" not in str(problem)
        else:
            assert all(size >= 0 for size in sizes), odd


def test_what_a_card_takes_for_kept_has_kernels() -> None:
    """A card names these without the extension; nothing else keeps the two lists alike."""
    assert set(KEPT) <= native_types().keys()
    assert not set(KEPT) & (CODED.keys() - {"MXFP4"})  # those change where rows cannot be kept
