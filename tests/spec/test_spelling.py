"""An error names a key as the file spells it, whatever name the family reads it under."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.families import BY_NAME, FAMILIES
from tests.grids import thinned
from tests.spec.hostile import ABSENT, real_configs, with_value
from tests.spec.test_gguf import SOURCE, keys_of
from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.spec.gguf import ARCHITECTURES, COMMON, COMPUTED, read_gguf_metadata
from trilens.spec.huggingface import read_config
from trilens.spec.keys import Keys

WORD = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)+|\w+")
QUOTED = re.compile(r"'[^']*'?")
HOSTILE = (0, -1, 3, 7, 2**19 + 1, 2**31, 1e30, float("nan"), "many", [], [7], {"a": 1}, True, None, ABSENT)


def words(line: str) -> set[str]:
    """What may be names of keys in an error, without the file's name and what stands in quotes."""
    return set(WORD.findall(QUOTED.sub("", line.partition(": ")[2])))


def configurations() -> Iterator[tuple[str, dict[str, Any]]]:
    for family in FAMILIES:
        yield family.name, json.loads(json.dumps({**family.config().to_dict(), **family.overrides}))
    yield from real_configs().items()


def test_keys_of_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every key that its family reads under another name, and whatever is wrong with it: the file's name, and not
    the other. A number that only contradicts another key may be said of that."""
    renamed: dict[tuple[str, ...], str] = {}
    lifted = Keys.lifted

    def noted(self: Keys, part: Keys, names: Mapping[str, str]) -> None:
        at = part.prefix.split(".")[:-1]
        renamed.update({(*at, name): other for name, other in names.items() if name in part.values})
        lifted(self, part, names)

    seen: set[str] = set()
    for model, config in configurations():
        renamed.clear()
        with monkeypatch.context() as patched, contextlib.suppress(UnsupportedModel):
            patched.setattr(Keys, "lifted", noted)
            read_config(config)
        for path, other in dict(renamed).items():
            refused = 0
            for value in HOSTILE:
                try:
                    read_config(with_value(config, path, value), "config.json")
                except (BadCheckpoint, UnsupportedModel) as refusal:
                    said, refused = words(str(refusal)), refused + 1
                    contradicts = value in (3, 7, 2**19 + 1)
                    assert path[-1] in said or contradicts, f"{model}, {value}: {refusal}"
                    assert other not in said or other in config, f"{model}, {value}: {refusal}"
            assert refused > 3, f"{model}: {path}"
            seen.add(f"{path[-1]} {other}")
    assert len(seen) > 30


@pytest.mark.parametrize(
    ("model", "key", "value", "said"),
    [
        ("dbrx", "attn_config.kv_n_heads", 3, "attn_config.kv_n_heads is 3; expected a divisor of n_heads, 4"),
        ("dbrx", "ffn_config.moe_top_k", 99, "ffn_config.moe_top_k is 99; expected no more than the"),
        ("dbrx", "d_model", 50, "n_heads is 4; expected a divisor of d_model, 50"),
        ("falcon 11B", "num_kv_heads", 3, "num_kv_heads is 3; expected a divisor of num_attention_heads, 4"),
    ],
)
def test_numbers_that_contradict_each_other(model: str, key: str, value: int, said: str) -> None:
    config = json.loads(json.dumps(BY_NAME[model].config().to_dict()))
    config.pop("num_key_value_heads", None)  # which transformers writes beside DBRX's own
    with pytest.raises(BadCheckpoint, match=f"^config.json: {said}"):
        read_config(with_value(config, tuple(key.split(".")), value), "config.json")


BAD = (0, -1, 3, 2**31, 1e30, float("nan"), "many", (), (1, 2), True, None)
# names of config.json that GGUF has no key of
INTERNAL = {ours.rpartition(".")[2] for ours in (*COMMON.values(), *COMPUTED)} - {
    part for key in (*COMMON, *COMPUTED.values()) for part in key.split(".")
}


@pytest.mark.parametrize("architecture", thinned(sorted(ARCHITECTURES), 2))
def test_keys_of_a_gguf_file(architecture: str) -> None:
    keys = keys_of(architecture)
    refused = 0
    for key in [name for name in keys if name.startswith(architecture)]:
        for value in BAD:
            changed = {name: v for name, v in {**keys, key: value}.items() if v is not None}
            try:
                read_gguf_metadata(changed, SOURCE, "m.gguf")
            except (BadCheckpoint, UnsupportedModel) as refusal:
                refused += 1
                assert not words(str(refusal)) & INTERNAL, f"{key} = {value}: {refusal}"
    assert refused > 20
