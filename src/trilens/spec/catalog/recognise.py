"""Tags for names as people write them -> what the catalog knows of the models that they mean, and nothing beyond it."""

from __future__ import annotations

from dataclasses import dataclass

from trilens.spec.catalog import Backbone, CatalogEntry
from trilens.spec.catalog.meaning import aliases, meaning
from trilens.spec.catalog.words import BASES, LEVELS, THINKS, Words, mode_of, says_nothing, words_of


@dataclass(frozen=True)
class Recognised:
    """`inference` is standard, thinking, switchable or unknown. `look_up` is empty where nothing is unknown."""

    name: str
    backbone: Backbone
    inference: str
    known_as: tuple[str, ...]
    look_up: str

    @property
    def tag(self) -> str:
        return f"{self.backbone} · {self.inference}"


def recognise(name: str) -> Recognised:
    """What the catalog knows of a model that somebody calls `name`."""
    words, mode, meant = words_of(name), mode_of(name), meaning(name)
    if not meant.models:
        return Recognised(name, "unknown", "unknown", (), _where_to_look(words))
    backbones = {e.backbone for e in meant.models}
    inferences = {_inference(e, mode, words - meant.used) for e in meant.models}
    backbone: Backbone = backbones.pop() if len(backbones) == 1 else "unknown"
    inference = inferences.pop() if len(inferences) == 1 else "unknown"
    known = tuple(e.name for e in meant.models)
    return Recognised(name, backbone, inference, known, _look_up(list(meant.models), backbone, inference))


def _inference(entry: CatalogEntry, mode: str | None, left: Words) -> str:
    word = entry.inference.word
    if mode == "base" and left & BASES and not entry.hosted:
        return "standard"
    if word == "switchable":
        if mode == "off":
            return "standard"
        if mode == "on" and left & (THINKS | LEVELS):
            return "thinking"
    if word == "thinking" and mode == "off":
        return "unknown"
    return word


# ---------------------------------------------------------------------------------------------- look up


def _look_up(fitting: list[CatalogEntry], backbone: Backbone, inference: str) -> str:
    if backbone != "unknown" and inference != "unknown":
        return ""
    if len(fitting) == 1 or all(e.hosted for e in fitting):
        known = next((e.look_up for e in fitting if e.look_up), None)
        vendor = fitting[0].vendor
        if vendor is not None:
            hosted = f"a technical report or system card of {vendor}: its architecture is not published"
            choose = "" if inference != "unknown" else "; for the inference, which version is meant"
            return (known or hosted) + choose
        return known or _by_config(backbone, inference)
    shown = ", ".join(e.name for e in fitting[:6]) + (f" and {len(fitting) - 6} more" if len(fitting) > 6 else "")
    return f"which one is meant: {shown}"


def _by_config(backbone: Backbone, inference: str) -> str:
    places = []
    if backbone == "unknown":
        places.append("its config.json (a number of experts, or none)")
    if inference == "unknown":
        places.append("its chat template (a variable such as enable_thinking, a marker such as <think>)")
    return " and ".join(places)


def _where_to_look(words: Words) -> str:
    """For a name that fits nothing: the nearest family and the word that does not belong, and where to read on."""
    heads: dict[str, int] = {}
    for _, alias, head in aliases():
        if head in words:
            heads[head] = max(heads.get(head, 0), len(alias & words))
    place = _by_config("unknown", "unknown")
    if not heads:
        return f"{place}; a hosted model's documentation"
    head = max(heads, key=lambda h: heads[h])
    vendors = {e.vendor for e, _, first in aliases() if first == head}
    if len(vendors) == 1 and None not in vendors:
        place = f"the documentation of {vendors.pop()}"
    known = frozenset().union(*(alias for _, alias, first in aliases() if first == head))
    odd = sorted(w for w in words if w not in known and not says_nothing(w))
    why = f"{', '.join(odd)} is not known of {head}" if odd else f"no {head} of the catalog is called so"
    return f"{why}; {place}"
