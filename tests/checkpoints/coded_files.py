"""Matrices quantised to the nearest and written in every layout, by these layouts' descriptions alone.

Files of the publishers' own tools gave the tools' values when the layouts were added (docs/quantisation.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

Tensors = dict[str, torch.Tensor]
NF4 = (-1.0, -0.69619280, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0)
NF4 += (0.07958030, 0.16093020, 0.24611230, 0.33791524, 0.44070983, 0.56261700, 0.72295684, 1.0)
FP4 = (0.0, 0.0052083333, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


@dataclass(frozen=True)
class Form:
    """`write`: (name without .weight, values [N, K]) -> (tensors, the values that they stand for). `config`: what goes
    into config.json. `type`, `native`: what trilens should call it, and hold it as."""

    name: str
    write: Callable[[str, np.ndarray], tuple[Tensors, np.ndarray]]
    config: dict[str, Any]
    type: str
    native: str
    exact: bool = True  # whether the blocks in memory have the same values where scales are halves
    within: float = 2e-3  # of the logits with 16-bit activations
    everything: bool = False  # embedding and head too
    key: str = "quantization_config"
    parts: tuple[str, ...] = field(default=())


def words(codes: np.ndarray, bits: int) -> torch.Tensor:
    """[n, K] codes in 32-bit words, from the lowest bits on."""
    single = codes.astype(np.uint8)[..., None] >> np.arange(bits, dtype=np.uint8) & 1
    flat = single.reshape(len(codes), -1)
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 32)))
    return torch.from_numpy(np.packbits(flat, axis=1, bitorder="little").view(np.int32).copy())


def rounded(w: np.ndarray, bits: int, group: int, symmetric: bool, order: np.ndarray | None = None) -> Any:
    """(codes [N, K], scales f16 [N, G], zeros [N, G], the group of each column)."""
    columns = w.shape[1]
    of = np.arange(columns) // group if order is None else order
    count, most = int(of.max()) + 1, 2**bits - 1
    scales, zeros = np.empty((len(w), count), np.float16), np.empty((len(w), count), np.float32)
    for g in range(count):
        part = w[:, of == g]
        low, high = part.min(1), part.max(1)
        if symmetric:
            scales[:, g] = np.abs(part).max(1) / (2 ** (bits - 1) - 1)
            zeros[:, g] = 2 ** (bits - 1)
        else:
            scales[:, g] = (np.maximum(high, 0) - np.minimum(low, 0)) / most
            zeros[:, g] = np.clip(np.rint(-low / scales[:, g].astype(np.float32)), 0, most)
    wide = scales.astype(np.float32)
    codes = np.clip(np.rint(w / wide[:, of]) + zeros[:, of], 0, most)
    return codes, scales, zeros, of


def stood_for(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray, of: np.ndarray) -> np.ndarray:
    values: np.ndarray = (codes.astype(np.float32) - zeros[:, of]) * scales.astype(np.float32)[:, of]
    return values


def gptq(bits: int, group: int, symmetric: bool, *, act: bool = False, v2: bool = False, rounds: str = "") -> Form:
    def write(name: str, w: np.ndarray) -> tuple[Tensors, np.ndarray]:
        size = group if group > 0 else w.shape[1]
        order = np.arange(w.shape[1]) // size
        if act:
            order = np.random.default_rng(7).permutation(order)
        codes, scales, zeros, of = rounded(w, bits, size, symmetric, order)
        kept = zeros if v2 or rounds == "auto_round" else (zeros - 1) % 2**bits
        out = {
            f"{name}.qweight": words(codes, bits).t().contiguous(),
            f"{name}.qzeros": words(kept.T, bits),
            f"{name}.scales": torch.from_numpy(scales.T.copy()),
        }
        if not rounds:
            out[f"{name}.g_idx"] = torch.from_numpy(of.astype(np.int32))
        return out, stood_for(codes, scales, zeros, of)

    config: dict[str, Any] = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": symmetric}
    config |= {"desc_act": act, "checkpoint_format": "gptq_v2" if v2 else "gptq"}
    if rounds:
        config = {"quant_method": "auto-round", "bits": bits, "group_size": group, "sym": symmetric}
        config["packing_format"] = rounds
    scattered = act or group % 32 > 0
    suffix = "_SCATTERED" if scattered and group > 0 else "" if symmetric else "_ZERO"
    otherwise = "Q8_0" if bits <= 4 else "F16"
    plain = ("Q4_0" if bits <= 4 else "Q8_0") if symmetric else "Q4_1" if bits <= 4 else "Q8_MIN"
    native = otherwise if suffix == "_SCATTERED" else plain
    said = f"{'auto-round' if rounds else 'gptq'} {bits} {group} {'sym' if symmetric else 'asym'}"
    said += f"{' act' * act}{' v2' * v2}{rounds and ' ' + rounds}"
    exact = symmetric and suffix != "_SCATTERED"
    return Form(said, write, config, f"INT{bits}{suffix}", native, exact, 2e-3 if suffix != "_SCATTERED" else 2.5e-2)


def awq(group: int) -> Form:
    def packed(of_rows: np.ndarray) -> torch.Tensor:  # [.., N], eight of a word in an order of their own
        eights = of_rows.reshape(len(of_rows), -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]]
        return words(eights.reshape(len(of_rows), -1), 4)

    def write(name: str, w: np.ndarray) -> tuple[Tensors, np.ndarray]:
        codes, scales, zeros, of = rounded(w, 4, group, False)
        out = {
            f"{name}.qweight": packed(codes.T),
            f"{name}.qzeros": packed(zeros.T),
            f"{name}.scales": torch.from_numpy(scales.T.copy()),
        }
        return out, stood_for(codes, scales, zeros, of)

    config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
    scattered = group % 32 > 0
    kind, native = ("INT4_SCATTERED", "Q8_0") if scattered else ("INT4_ZERO", "Q4_1")
    return Form(f"awq {group}", write, config, kind, native, False, 1.5e-2 if scattered else 2e-3)


def compressed(bits: int, group: int | None, symmetric: bool, *, packed: bool = True) -> Form:
    """`group` None: a scale a row; 0: one for all."""

    def write(name: str, w: np.ndarray) -> tuple[Tensors, np.ndarray]:
        codes, scales, zeros, of = rounded(w, bits, group or w.shape[1], symmetric)
        if group == 0:
            scales[:], zeros[:] = scales.max(), 2 ** (bits - 1)
            codes = np.clip(np.rint(w / scales.astype(np.float32)) + zeros, 0, 2**bits - 1)
        out: Tensors = {f"{name}.weight_scale": torch.from_numpy(scales if group != 0 else scales[:1, 0].copy())}
        if packed:
            out[f"{name}.weight_packed"] = words(codes, bits)
            out[f"{name}.weight_shape"] = torch.tensor(w.shape)
        else:
            out[f"{name}.weight"] = torch.from_numpy((codes - 128).astype(np.int8))
        if not symmetric:
            own = words(zeros.T, bits).t() if packed else torch.from_numpy((zeros - 128).astype(np.int8))
            out[f"{name}.weight_zero_point"] = own.contiguous()
        return out, stood_for(codes, scales, zeros, of)

    strategy = "tensor" if group == 0 else "channel" if group is None else "group"
    weights = {"num_bits": bits, "type": "int", "strategy": strategy, "group_size": group or None}
    config = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized" if packed else "int-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {**weights, "symmetric": symmetric}}},
        "ignore": ["lm_head", "re:.*self_attn.k_proj$"],
    }
    four = bits <= 4
    native = ("Q4_0" if four else "Q8_0") if symmetric else "Q4_1" if four else "Q8_MIN"
    kind = f"INT{bits}" if symmetric else f"INT{bits}_ZERO"
    said = f"{'packed' if packed else 'bytes'} {bits} {strategy} {group} {'sym' if symmetric else 'asym'}"
    return Form(said, write, config, kind, native, symmetric, 4e-3 if native == "Q8_MIN" else 2e-3)


def mlx(bits: int, group: int) -> Form:
    def write(name: str, w: np.ndarray) -> tuple[Tensors, np.ndarray]:
        parts = w.reshape(len(w), -1, group)
        low = parts.min(-1).astype(np.float16)
        scales = ((parts.max(-1) - low) / (2**bits - 1)).astype(np.float16)
        s, m = scales.astype(np.float32)[..., None], low.astype(np.float32)[..., None]
        codes = np.clip(np.rint((parts - m) / s), 0, 2**bits - 1)
        out = {
            f"{name}.weight": words(codes.reshape(len(w), -1), bits).view(torch.uint32),
            f"{name}.scales": torch.from_numpy(scales),
            f"{name}.biases": torch.from_numpy(low),
        }
        return out, (codes.astype(np.float32) * s + m).reshape(w.shape)

    native = "Q4_1" if bits <= 4 else "Q8_MIN"
    config = {"group_size": group, "bits": bits, "mode": "affine"}
    return Form(f"mlx {bits} {group}", write, config, f"INT{bits}_MIN", native, everything=True, key="quantization")


def nearest(w: np.ndarray, levels: np.ndarray) -> np.ndarray:
    codes: np.ndarray = np.abs(w[..., None] - levels).argmin(-1)
    return codes


def nvfp4(*, modelopt: bool) -> Form:
    def write(name: str, w: np.ndarray) -> tuple[Tensors, np.ndarray]:
        parts = w.reshape(len(w), -1, 16)
        factor = np.float32(np.abs(w).max() / (6 * 448))
        eights = torch.from_numpy(np.abs(parts).max(-1) / 6 / factor).to(torch.float8_e4m3fn)
        scales = eights.float().numpy()[..., None]
        codes = nearest(parts / np.where(scales > 0, scales * factor, 1), E2M1).reshape(len(w), -1)
        pairs = torch.from_numpy((codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8))
        if modelopt:
            out = {f"{name}.weight": pairs, f"{name}.weight_scale_2": torch.tensor(factor)}
            out[f"{name}.input_scale"] = torch.tensor(1.0)
        else:
            factor = np.float32(1) / (np.float32(1) / factor)
            out = {f"{name}.weight_packed": pairs, f"{name}.weight_global_scale": torch.tensor([1 / factor])}
            out[f"{name}.input_global_scale"] = torch.tensor([1.0])
            factor = np.float32(1) / out[f"{name}.weight_global_scale"].numpy()[0]
        values = (E2M1[codes].reshape(parts.shape) * (scales * factor)).reshape(w.shape)
        return {**out, f"{name}.weight_scale": eights}, values

    config: dict[str, Any] = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}
    if not modelopt:
        weights = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}
        config = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "ignore": ["lm_head"]}
        config["config_groups"] = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return Form(f"nvfp4 {'modelopt' if modelopt else 'compressed'}", write, config, "NVFP4", "NVFP4")


def modelopt_fp8() -> Form:
    def write(name: str, w: np.ndarray) -> tuple[Tensors, np.ndarray]:
        scale = torch.tensor(float(np.abs(w).max()) / 448)
        eights = (torch.from_numpy(w) / scale).to(torch.float8_e4m3fn)
        out = {f"{name}.weight": eights, f"{name}.weight_scale": scale, f"{name}.input_scale": torch.tensor(1.0)}
        return out, (eights.float() * scale).numpy()

    config = {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    return Form("modelopt fp8", write, config, "F8_E4M3", "F8_E4M3", exact=False)


def fp8(high: int, wide: int) -> Form:
    """A scale for `high` rows and `wide` columns; 0 columns: for a row."""

    def write(name: str, w: np.ndarray) -> tuple[Tensors, np.ndarray]:
        rows, columns = w.shape
        width = wide or columns
        padded = np.pad(w, ((0, -rows % high), (0, -columns % width)))
        blocks = np.abs(padded).reshape(padded.shape[0] // high, high, -1, width)
        scales = (blocks.max((1, 3)) / 448).astype(np.float32 if wide else np.float16)
        each = np.repeat(np.repeat(scales.astype(np.float32), high, 0)[:rows], width, 1)[:, :columns]
        eights = (torch.from_numpy(w) / torch.from_numpy(each)).to(torch.float8_e4m3fn)
        scale_name = "weight_scale_inv" if wide else "weight_scale"
        out = {f"{name}.weight": eights, f"{name}.{scale_name}": torch.from_numpy(scales)}
        return out, eights.float().numpy() * each

    config: dict[str, Any] = {"quant_method": "fp8", "weight_block_size": [high, wide]}
    if not wide:
        weights = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}
        config = {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"]}
        config["config_groups"] = {"group_0": {"targets": ["Linear"], "weights": weights}}
    native = "F16" if wide % 128 else "F8_E4M3"
    return Form(f"fp8 {high} x {wide}" if wide else "fp8 rows", write, config, "F8_E4M3", native, exact=False)


def mxfp4() -> Form:
    def write(name: str, w: np.ndarray) -> tuple[Tensors, np.ndarray]:
        parts = w.reshape(len(w), -1, 32)
        power = np.floor(np.log2(np.abs(parts).max(-1))) - 2
        codes = nearest(parts / np.exp2(power)[..., None], E2M1)
        values = (E2M1[codes] * np.exp2(power)[..., None]).astype(np.float32).reshape(w.shape)
        codes = codes.reshape(len(w), -1)
        pairs = torch.from_numpy((codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8))
        scales = torch.from_numpy((power + 127).astype(np.uint8))
        return {f"{name}.weight_packed": pairs, f"{name}.weight_scale": scales}, values

    weights = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "symmetric": True}
    config = {"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized", "ignore": ["re:.*lm_head"]}
    config["config_groups"] = {"group_0": {"targets": ["Linear"], "weights": weights}}  # type: ignore[assignment]
    return Form("mxfp4 compressed", write, config, "MXFP4", "MXFP4")


def bitsandbytes(kind: str, *, nested: bool) -> Form:
    levels = np.array(NF4 if kind == "nf4" else (*FP4, *(-x for x in FP4)), np.float32)
    table = np.sort(np.tanh(np.linspace(-3, 3, 256)).astype(np.float32))

    def write(name: str, w: np.ndarray) -> tuple[Tensors, np.ndarray]:
        flat = np.pad(w.reshape(-1), (0, -w.size % 64)).reshape(-1, 64)
        most = np.abs(flat).max(1)
        at = f"{name}.weight"
        state: dict[str, Any] = {"quant_type": kind, "blocksize": 64, "dtype": "float32", "shape": list(w.shape)}
        if nested:
            offset = float(most.mean())
            outer = np.abs(np.pad(most - offset, (0, -len(most) % 256))).reshape(-1, 256).max(1).astype(np.float32)
            places = nearest((most - offset) / np.repeat(outer, 256)[: len(most)], table)
            most = table[places] * np.repeat(outer, 256)[: len(most)] + np.float32(offset)
            state |= {"nested_blocksize": 256, "nested_offset": offset, "nested_dtype": "float32"}
        codes = nearest(flat / most[:, None], levels)
        values = (levels[codes] * most[:, None]).reshape(-1)[: w.size].reshape(w.shape)
        codes = codes.reshape(-1)[: w.size]
        text = np.frombuffer(json.dumps(state).encode(), np.uint8).copy()
        out = {
            at: torch.from_numpy((codes[0::2] << 4 | codes[1::2]).astype(np.uint8)[:, None].copy()),
            f"{at}.quant_map": torch.from_numpy(levels).clone(),
            f"{at}.quant_state.bitsandbytes__{kind}": torch.from_numpy(text),
            f"{at}.absmax": torch.from_numpy(places.astype(np.uint8) if nested else most.astype(np.float32)),
        }
        if nested:
            out[f"{at}.nested_absmax"] = torch.from_numpy(outer)
            out[f"{at}.nested_quant_map"] = torch.from_numpy(table).clone()
        return out, values

    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    config["bnb_4bit_use_double_quant"] = nested
    return Form(
        f"bitsandbytes {kind}{' nested' * nested}", write, config, kind.upper(), kind.upper(), False, within=2.5e-2
    )


def int8() -> Form:
    def write(name: str, w: np.ndarray) -> tuple[Tensors, np.ndarray]:
        most = np.abs(w).max(1).astype(np.float32)
        codes = np.rint(w / most[:, None] * 127).astype(np.int8)
        out = {f"{name}.weight": torch.from_numpy(codes), f"{name}.SCB": torch.from_numpy(most)}
        return out, codes.astype(np.float32) * (most / np.float32(127))[:, None]

    return Form("int8", write, {"quant_method": "bitsandbytes", "load_in_8bit": True}, "INT8", "Q8_0", False)


FORMS = (
    compressed(4, 32, True),
    compressed(4, 128, False),
    compressed(4, None, True),
    compressed(8, 64, True),
    compressed(8, None, False),
    compressed(8, None, True, packed=False),
    compressed(8, 128, False, packed=False),
    compressed(8, 0, True, packed=False),
    gptq(4, 128, True),
    gptq(4, 64, False, v2=True),
    gptq(4, 32, False),
    gptq(4, 64, True, act=True),
    gptq(4, -1, True, act=True),
    gptq(8, 128, True, v2=True),
    gptq(8, 32, False),
    gptq(8, 64, True, act=True),
    gptq(2, 64, True),
    gptq(4, 16, True),
    gptq(4, 128, True, rounds="auto_round"),
    gptq(4, 32, False, rounds="auto_round:auto_gptq"),
    awq(128),
    awq(32),
    awq(16),
    mlx(4, 64),
    mlx(8, 64),
    mlx(4, 32),
    mlx(8, 128),
    mlx(3, 64),
    mlx(6, 32),
    nvfp4(modelopt=True),
    nvfp4(modelopt=False),
    modelopt_fp8(),
    fp8(128, 128),
    fp8(64, 256),
    fp8(64, 64),
    fp8(1, 0),
    mxfp4(),
    bitsandbytes("nf4", nested=False),
    bitsandbytes("nf4", nested=True),
    bitsandbytes("fp4", nested=True),
    int8(),
)
BY_NAME = {form.name: form for form in FORMS}
