"""The torch executor's operations on many sequences of one length at a time, which is what training feeds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trilens.decoder.decoder import decode
from trilens.decoder.weights import Parameter
from trilens.executors.torch import TorchExecutor, TorchOps
from trilens.spec.model import Mask, Positions


class PackedOps(TorchOps):
    """`tokens` [B, L], padded on the right. Only attention is another than one sequence's at a time."""

    def __init__(self, executor: TorchExecutor, tokens: Tensor) -> None:
        self.executor = executor
        self.tensors = executor.tensors
        self.count, self.length = tokens.shape
        self.tokens = tokens.flatten()
        self.positions = torch.arange(self.length).repeat(self.count)
        self.rows = None
        self.all_adapted = self.wanted_adapted = self.adapted = []
        self.routes = []
        self._angles = {}
        self._kv: dict[int, tuple[Tensor, Tensor]] = {}

    def _cos_sin(self, rope):  # type: ignore[no-untyped-def]
        if rope not in self._angles:
            frequencies, factor = self.executor.frequencies(rope, self.length)
            angles = self.positions[:, None, None].float() * frequencies
            self._angles[rope] = angles.cos() * factor, angles.sin() * factor
        return self._angles[rope]

    def write_kv(self, cache: Positions, k: Tensor, v: Tensor | None) -> None:
        assert v is not None
        self._kv[cache.index] = self._heads(k, cache.kv_heads), self._heads(v, cache.kv_heads)

    def attend(
        self,
        q: Tensor,
        cache: Positions,
        heads: int,
        mask: Mask,
        scale: float,
        softcap: float | None,
        sinks: Parameter | None,
        chosen: int | None,
    ) -> Tensor:
        k, v = self._kv[cache.index]
        groups = heads // cache.kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        y = F.scaled_dot_product_attention(self._heads(q, heads), k, v, is_causal=True, scale=scale)
        return y.transpose(1, 2).reshape(self.count * self.length, -1)

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        return x.view(self.count, self.length, heads, -1).transpose(1, 2)


def forward(executor: TorchExecutor, tokens: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """[B, L] -> (logits [B * L, vocab], of each routed layer all scores [B * L, E], and the chosen ids)."""
    ops = PackedOps(executor, tokens)
    logits = decode(ops, executor.spec, executor.weights)
    return logits, [r.scores for r in ops.routes], [r.ids for r in ops.routes]
