"""Which part of an unsupported model is unknown, as far as its configuration shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The first key of a configuration (or of its text_config) that gives a part away, and that part in words.
PARTS = {
    "hc_mult": "hyper-connections in place of the residual",
    "compress_ratios": "compressed keys and values",
    "attn_res_block_size": "residuals that choose among earlier layers (attn_res_block_size)",
    "activation_situ_beta": "the curve that activation_situ_beta describes",
    "kda_layers": "delta attention layers of this kind (linear_attn_config)",
    "mamba_d_state": "Mamba layers of this kind",
    "ssm_state_size": "state-space layers",
    "sparse_attention_config": "block-sparse attention",
    "moe_latent_size": "experts on a latent width",
    "qk_norm_type": "the kind of normalised queries and keys that qk_norm_type names",
}


def unknown_part(config: Mapping[str, Any]) -> str:
    """A phrase for an error: the parts that trilens does not have, or that its layers are not described."""
    inner = [v for v in config.values() if isinstance(v, Mapping)]
    places = [config, *inner, *(v for m in inner for v in m.values() if isinstance(v, Mapping))]
    found = [words for key, words in PARTS.items() if any(_says(place, key) for place in places)]
    return f"trilens does not have {' or '.join(found[:2])}" if found else "how its layers are wired is not known"


def _says(place: Mapping[str, Any], key: str) -> bool:
    return key in place and place[key] not in (None, 0, "", [], {})
