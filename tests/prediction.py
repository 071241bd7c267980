"""A tiny model with a block for multi-token prediction, and the same block made of transformers' own layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.families import reference, saved

# family -> where its files have the parts of the block
OF_QWEN = ("mtp.layers.0.", "mtp.pre_fc_norm_embedding", "mtp.pre_fc_norm_hidden", "mtp.fc", "mtp.norm")
OF_DEEPSEEK = tuple(f"model.layers.4.{part}" for part in ("", "enorm", "hnorm", "eh_proj", "shared_head.norm"))
PLACES = {
    "qwen3-next": OF_QWEN,
    "qwen3-next with dense layers, biases, six taps": OF_QWEN,
    "qwen3.5 (text)": OF_QWEN,
    "qwen3.5 moe (text)": OF_QWEN,
    "glm-4.5": OF_DEEPSEEK,
    "deepseek v3": OF_DEEPSEEK,
}
STATED = {  # by which key; Qwen3-Next has none
    "qwen3.5 (text)": "mtp_num_hidden_layers",
    "qwen3.5 moe (text)": "mtp_num_hidden_layers",
    "glm-4.5": "num_nextn_predict_layers",
    "deepseek v3": "num_nextn_predict_layers",
}


class Block(nn.Module):
    """One decoder layer with full attention as transformers has it, between norms and a matrix of its own."""

    def __init__(self, name: str) -> None:
        super().__init__()
        model: Any = reference(name)
        config = deepcopy(model.config)
        config.num_hidden_layers = 1
        if getattr(config, "layer_types", None):
            config.layer_types = ["full_attention"]
        for key, value in (("first_k_dense_replace", 0), ("mlp_layer_types", ["sparse"]), ("mlp_only_layers", [])):
            if hasattr(config, key):
                setattr(config, key, value)
        layers = model.model.layers
        norm = type(layers[0].input_layernorm)
        self.whole, width = model, config.hidden_size
        self.layer = type(layers[-1])(config, 0)
        self.enorm, self.hnorm, self.norm = (norm(width, eps=config.rms_norm_eps) for _ in range(3))
        self.fc = nn.Linear(2 * width, width, bias=False)
        generator = torch.Generator().manual_seed(1)
        mean = 0.0 if name.startswith("qwen") else 1.0
        with torch.no_grad():
            for part in (self.layer, self.enorm, self.hnorm, self.norm, self.fc):
                for key, tensor in [*part.named_parameters(), *part.named_buffers()]:
                    spread = torch.randn(tensor.shape, generator=generator)
                    if tensor.dim() > 1:
                        tensor.copy_(spread * tensor.shape[-1] ** -0.5)
                    elif "norm" in key or part in (self.enorm, self.hnorm, self.norm):
                        tensor.copy_(mean + 0.2 * spread)
                    elif tensor.is_floating_point():
                        tensor.copy_(0.2 * spread)

    def forward(self, tokens: Sequence[int]) -> Tensor:
        """[tokens - 1, vocab]: what follows each two neighbouring tokens."""
        ids = torch.tensor([tokens])
        decoder = self.whole.model
        hidden = decoder(ids).last_hidden_state[:, :-1]
        x = self.fc(torch.cat((self.enorm(decoder.embed_tokens(ids[:, 1:])), self.hnorm(hidden)), -1))
        length = x.shape[1]
        places = torch.arange(length)[None]
        turned = decoder.rotary_emb(x, position_ids=places)
        unseen = torch.full((length, length), torch.finfo(x.dtype).min).triu(1)[None, None]
        result = self.layer(x, position_embeddings=turned, attention_mask=unseen, position_ids=places)
        result = result[0] if isinstance(result, tuple) else result
        logits: Tensor = self.whole.lm_head(self.norm(result))
        return logits[0]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """As the family's files have them."""
        layer, *others = PLACES[name]
        parts: dict[str, nn.Module] = dict(zip(others, (self.enorm, self.hnorm, self.fc, self.norm), strict=True))
        found = {layer + key: tensor for key, tensor in self.layer.state_dict().items()}
        found |= {f"{place}.weight": part.state_dict()["weight"] for place, part in parts.items()}
        return {key: tensor.clone().contiguous() for key, tensor in found.items()}


def saved_with_block(name: str, directory: Path) -> tuple[Path, Block]:
    """The family's tiny model with a random block beside it, and the block."""
    block = Block(name).eval()
    saved(name, directory)
    path, config = directory / "model.safetensors", directory / "config.json"
    save_file({**load_file(path), **block.tensors(name)}, path, metadata={"format": "pt"})
    stated = {STATED[name]: 1} if name in STATED else {}
    config.write_text(json.dumps({**json.loads(config.read_text()), **stated}))
    return directory, block
