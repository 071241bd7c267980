"""A dense feed-forward layer in PyTorch, and what it costs by the formula.

Every weight takes part for every token: three matrices of d_model x d_ffn, so 2 x 3 x d_model x d_ffn operations a
token. A test holds it equal to the decoder's own. Needs `trilens[torch]`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import trilens


class DenseFFN(nn.Module):
    """[..., d_model] -> [..., d_model]: down(silu(gate(x)) * up(x))."""

    def __init__(self, d_model: int, d_ffn: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_ffn, bias=False)
        self.up = nn.Linear(d_model, d_ffn, bias=False)
        self.down = nn.Linear(d_ffn, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return y


def main() -> None:
    d_model, d_ffn, tokens = 576, 1536, 10
    layer = DenseFFN(d_model, d_ffn)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        layer(torch.randn(tokens, d_model))
    print("parameters", sum(p.numel() for p in layer.parameters()), "- all of them active for each token")
    print("by the formula, a token", trilens.dense_ffn_flops_per_token(d_model, d_ffn))
    print("counted by PyTorch, a token", counter.get_total_flops() // tokens)


if __name__ == "__main__":
    main()
