"""Tags for names as people write them -> what the catalog knows of the models that they mean, and nothing beyond it."""

from __future__ import annotations

from dataclasses import dataclass

from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.spec.catalog import Backbone, CatalogEntry
from trilens.spec.catalog.meaning import aliases, meaning
from trilens.spec.catalog.words import BASES, LEVELS, THINKS, Words, mode_of, says_nothing, words_of
from trilens.spec.huggingface import read_config


@dataclass(frozen=True)
class Recognised:
    """`inference` is standard, thinking, switchable or unknown. `why` says where each half of the tag is from;
    `look_up`, where to read what is unknown, is empty where nothing is."""

    name: str
    backbone: Backbone
    inference: str
    known_as: tuple[str, ...]
    why: str
    look_up: str

    @property
    def tag(self) -> str:
        return f"{self.backbone} · {self.inference}"


def recognise(name: str) -> Recognised:
    """What the catalog knows of a model that somebody calls `name`."""
    words, mode, meant = words_of(name), mode_of(name), meaning(name)
    if not meant.models:
        return Recognised(name, "unknown", "unknown", (), *_unknown_name(words))
    backbones = {e.backbone for e in meant.models}
    inferences = {_inference(e, mode, words - meant.used) for e in meant.models}
    backbone: Backbone = backbones.pop() if len(backbones) == 1 else "unknown"
    inference = inferences.pop() if len(inferences) == 1 else "unknown"
    known = tuple(e.name for e in meant.models)
    models = list(meant.models)
    return Recognised(name, backbone, inference, known, _why(models, inference), _look_up(models, backbone, inference))


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


# ---------------------------------------------------------------------------------------------- why, and look up


def _why(fitting: list[CatalogEntry], inference: str) -> str:
    if len(fitting) > 1:
        kinds: dict[str, list[str]] = {}
        for entry in fitting:
            kinds.setdefault(f"{entry.backbone} · {entry.inference.word}", []).append(entry.name)
        return "may be " + "; or ".join(f"{_listed(names)} ({kind})" for kind, names in kinds.items())
    [entry] = fitting
    thinks = _why_it_thinks(entry)
    if inference != entry.inference.word:
        thinks = f"{thinks}, and the name asks for {inference}" if inference != "unknown" else thinks
    return f"{entry.name}: {_why_that_backbone(entry)}; {thinks}"


def _why_that_backbone(entry: CatalogEntry) -> str:
    if entry.backbone == "unknown":
        return f"{entry.vendor or 'its publisher'} does not publish its architecture"
    if entry.config is None:
        return "its publisher calls it " + ("a mixture of experts" if entry.backbone == "routed" else "dense")
    if entry.backbone == "dense":
        return "its config.json has no experts"
    try:
        routers = [routed.router for _, routed in read_config(entry.config).spec.routed_layers()]
    except (BadCheckpoint, UnsupportedModel):  # of a family that trilens does not count yet
        return "its publisher calls it a mixture of experts"
    most = max(routers, key=lambda router: router.experts)
    return f"its config.json has {most.experts} experts, {most.chosen} for each token"


def _why_it_thinks(entry: CatalogEntry) -> str:
    stated = entry.inference
    match stated.kind:
        case "never":
            return "it never thinks before it answers"
        case "always":
            return "it always thinks before it answers"
        case "levels":
            levels = f" ({', '.join(stated.levels)})" if stated.levels else ""
            return (
                f"it thinks at levels{levels}, or not at all" if stated.off else f"it always thinks, at levels{levels}"
            )
        case "switchable":
            how = f"{stated.variable} in its template turns" if stated.variable else "the request turns"
            return f"{how} its thinking on or off"
        case "unknown":
            return "whether it thinks is not known here"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _look_up(fitting: list[CatalogEntry], backbone: Backbone, inference: str) -> str:
    if backbone != "unknown" and inference != "unknown":
        return ""
    if len(fitting) == 1 or all(e.hosted for e in fitting):
        known = next((e.look_up for e in fitting if e.look_up), None)
        vendor = fitting[0].vendor
        if vendor is not None:
            hosted = f"a technical report or system card of {vendor}, if one comes out"
            choose = "" if inference != "unknown" else "; and say which version is meant"
            return (known or hosted) + choose
        return known or _by_config(backbone, inference)
    return f"say which one is meant: {_listed([e.name for e in fitting])}"


def _by_config(backbone: Backbone, inference: str) -> str:
    places = []
    if backbone == "unknown":
        places.append("config.json on its publisher's page: routed if it counts experts, dense if not")
    if inference == "unknown":
        places.append(
            "its chat template: switchable if a variable such as enable_thinking is in it, thinking if it opens a "
            "marker such as <think> by itself, else standard"
        )
    return "; ".join(places)


def _unknown_name(words: Words) -> tuple[str, str]:
    """For a name that fits nothing: why (the nearest family and the word that does not belong), and where to look."""
    heads: dict[str, int] = {}
    for _, alias, head in aliases():
        if head in words:
            heads[head] = max(heads.get(head, 0), len(alias & words))
    place = _by_config("unknown", "unknown")
    if not heads:
        return "the catalog has no model of this name", place
    head = max(heads, key=lambda h: heads[h])
    vendors = {e.vendor for e, _, first in aliases() if first == head}
    if len(vendors) == 1 and None not in vendors:
        place = f"the models that {vendors.pop()} lists in its documentation"
    known = frozenset().union(*(alias for _, alias, first in aliases() if first == head))
    odd = sorted(w for w in words if w not in known and not says_nothing(w))
    why = (
        f"the catalog has {head}, but none with {', '.join(odd)} in its name"
        if odd
        else f"the catalog has no such {head}"
    )
    return why, place
