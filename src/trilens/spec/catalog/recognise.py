"""Names of models as people write them -> what the catalog knows, and nothing beyond it.

A name becomes a set of words: "Meta-Llama-3.1-8B-Instruct" is llama, 3.1, 8b, instruct. An alias of the catalog fits
if all its words are there and whatever else is there means nothing for the wiring (a file type, a date). A name that
says less than the aliases ("Gemma 4") stands for all that complete it; what they share is known, the rest is not. A
word that nobody knows makes a name unknown: a fine-tune or a merge may be anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from trilens.spec.catalog import Backbone, CatalogEntry, entries

Words = frozenset[str]

SIZE = re.compile(r"e?\d+(?:\.\d+)?[bmt]|a\d+(?:\.\d+)?[bm]|\d+x\d+(?:\.\d+)?b|\d+e")
DATE = re.compile(r"(?:19|20)\d{6}|20\d\d|2[3-9](?:0[1-9]|1[0-2])|(?:0[1-9]|1[0-2])[0-3]\d")
CONTEXT = re.compile(r"\d+k|1m")
QUANTISED = re.compile(r"i?q\d\w*|[wa]\d+a?\d*|\d+bit|\d+bpw|(?:fp|bf|int|nf|nvfp|mxfp)\d+|[ui]\d|f16|f32")
VENDORS = """
    meta llama openai google deepmind microsoft mistral mistralai anthropic alibaba nvidia ibm deepseek moonshot
    moonshotai zai zhipu minimax minimaxai tencent baidu databricks xai cohere allenai ai2 qwen hf huggingface
    huggingfacetb unsloth bartowski nousresearch thebloke lmstudio mlx community redhatai neuralmagic ollama
    groq together fireworks bedrock vertex openrouter azure accounts models xiaomimimo org
"""
PLAIN = """
    instruct instruction chat it hf gguf ggml awq gptq exl2 exl3 bnb dynamic ud xl k m s l xs xxs nl safetensors
    text only latest preview exp experimental the model ai by from quantized quantised quant versatile language
    free api old new original official stable release version series llm tuned block channel torchao onnx with
    mode on enabled
"""
THINKS = frozenset("thinking think reasoning reasoner extended cot".split())
LEVELS = frozenset("minimal low medium high xhigh max".split())
NEGATED = re.compile(
    r"\b(?:non|no|without|not)[\s_-]*(?:extended[\s_-]*)?(?:thinking|reasoning|think)\b"
    r"|\b(?:thinking|reasoning)[\s_:=-]*(?:off|disabled|none)\b"
)
BEDROCK = re.compile(r"^(?:[a-z]{2,6}\.)?(?:anthropic|meta|mistral|deepseek|openai|google|qwen)\.|-v\d+:\d+$")
BASES = frozenset("base pt pretrained foundation".split())
HARMLESS = frozenset((VENDORS + PLAIN).split())


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
    words, mode = _words(name), _mode(name)
    fitting, meant = _fitting(words)
    if not fitting:
        return Recognised(name, "unknown", "unknown", (), _where_to_look(words))
    backbones = {e.backbone for e in fitting}
    inferences = {_inference(e, mode, words - meant) for e in fitting}
    backbone: Backbone = backbones.pop() if len(backbones) == 1 else "unknown"
    inference = inferences.pop() if len(inferences) == 1 else "unknown"
    return Recognised(name, backbone, inference, tuple(e.name for e in fitting), _look_up(fitting, backbone, inference))


def models_called(name: str) -> list[CatalogEntry]:
    """The entries that a name means and not merely fits: the same words, else the same but for vendors and the like."""
    words = _words(name)
    exact = [e for e, alias, _ in _aliases() if alias == words and _can_be_counted(e)]
    same = [e for e, alias, _ in _aliases() if _core(alias) == _core(words) and _can_be_counted(e)]
    return list({e.name: e for e in exact or same}.values())


def _can_be_counted(entry: CatalogEntry) -> bool:
    return entry.config is not None or entry.source is not None or entry.hosted


def _core(words: Words) -> Words:
    return frozenset(w for w in words if not _says_nothing(w))


# ------------------------------------------------------------------------------------------------ words


def _words(name: str) -> Words:
    return frozenset(_split(name))


@cache
def _split(name: str) -> tuple[str, ...]:
    text = NEGATED.sub(" ", name.lower().strip())
    text = re.sub("[\u2010-\u2015\u2212]", "-", text).replace("\u00d7", "x")  # dashes, times
    text = text.rsplit("/", 1)[-1] if "/" in text else text
    text = BEDROCK.sub("", text)
    text = re.sub(r"\.(?:gguf|safetensors|json|bin)$", "", text)
    text = re.sub(r"20\d\d-\d\d-\d\d|-\d\d-(?:20)?\d\d(?=$|[\s:])", " ", text)  # 2024-08-06, 05-06
    text = re.sub(r"\b(\d+)p(\d+)\b|(?<=v\d)p(\d)", lambda m: f"{m[1]}.{m[2]}" if m[1] else f".{m[3]}", text)
    text = re.sub(r"(\d)\s*x\s*(\d)", r"\1x\2", text)
    text = re.sub(r"(\d)[\s-]*(?:billion|bn)\b", r"\1b", text)
    text = re.sub(r"(\d)[\s-]*(?:million)\b", r"\1m", text)
    text = re.sub(r"(\d) +([bm])\b", r"\1\2", text)
    text = re.sub(r"\+", " plus ", text)
    words: list[str] = []
    for piece in re.split(r"[\s\-_:,;()\[\]|@=~'\"]+", text):
        words += _pieces(piece.strip("."))
    return tuple(_versions(words))


def _pieces(word: str) -> list[str]:
    """qwen3 -> qwen, 3; llama3.1 -> llama, 3.1; v3 -> 3; gpt4o -> gpt, 4o; 8x7b, a3b, e4b, r1 and o3 stay."""
    if not word or SIZE.fullmatch(word) or QUANTISED.fullmatch(word) or CONTEXT.fullmatch(word):
        return [word] if word else []
    if version := re.fullmatch(r"v(\d+(?:\.\d+)*)", word):
        return [version[1]]
    if mixed := re.fullmatch(r"([a-z]{2,})(\d.*)", word):
        return [mixed[1], *_pieces(mixed[2])]
    if sized := re.fullmatch(r"(\d+(?:\.\d+)?b)(a\d+(?:\.\d+)?b)", word):
        return [sized[1], sized[2]]
    return [word]


def _versions(words: list[str]) -> list[str]:
    """claude, 3, 5 -> claude, 3.5; k2, 5 -> k2.5; and 4.0 is 4."""
    joined: list[str] = []
    for word in words:
        if re.fullmatch(r"\d", word) and joined and re.fullmatch(r"[a-z]?\d", joined[-1]):
            joined[-1] += "." + word
        else:
            joined.append(word)
    return [re.sub(r"^([a-z]?\d+)\.0$", r"\1", word) for word in joined]


def _mode(name: str) -> str | None:
    """What the name itself says of the thinking: "off", "on", "base" or nothing."""
    if NEGATED.search(name.lower()):
        return "off"
    words = _words(name)
    if words & BASES:
        return "base"
    return "on" if words & (THINKS | LEVELS) else None


def _says_nothing(word: str) -> bool:
    if word in HARMLESS or DATE.fullmatch(word) or QUANTISED.fullmatch(word) is not None:
        return True
    return CONTEXT.fullmatch(word) is not None


# --------------------------------------------------------------------------------------------- matching


@cache
def _aliases() -> tuple[tuple[CatalogEntry, Words, str], ...]:
    """(entry, the words of one alias of it, the alias's first word) for every entry, alias and size."""
    rows = []
    for entry in entries().values():
        for alias in (entry.name, *entry.aliases):
            for size in entry.sizes or ("",):
                ordered = _split(f"{alias} {size}".strip())
                if ordered:
                    rows.append((entry, frozenset(ordered), ordered[0]))
    return tuple(rows)


def _fitting(words: Words) -> tuple[list[CatalogEntry], Words]:
    """The entries that a name may mean, and those of its words that were used for it; no entry if a word is unknown."""
    whole = [(e, alias) for e, alias, _ in _aliases() if alias <= words and _harmless(words - alias, e)]
    if whole:
        most = max(len(alias) for _, alias in whole)
        best = [(e, alias) for e, alias in whole if len(alias) == most]
        left = words - best[0][1] - LEVELS
        claimed = [(e, alias) for e, alias, _ in _aliases() if any(best[0][1] | {w} <= alias for w in left)]
        fuller = [(e, alias) for e, alias in claimed if _telling(words, alias) <= alias]
        if not claimed or (not fuller and all(_says_nothing(w) for w in left)):
            return _distinct(best), best[0][1]
        if left & THINKS and fuller:
            return _distinct([*best, *fuller]), best[0][1]
        near = [(e, alias) for e, alias in fuller if all(DATE.fullmatch(w) for w in alias - words)] or fuller
        return _distinct(near), frozenset().union(*(alias for _, alias in near))
    said = frozenset(w for w in words if not _says_nothing(w)) - BASES
    part = [(e, alias) for e, alias, head in _aliases() if head in words and said <= alias]
    sizes = [(e, alias) for e, alias in part if all(_says_nothing(w) or SIZE.fullmatch(w) for w in alias - words)]
    meant = sizes if sizes and len(said) > 1 else part  # "mistral" alone is all that is called so, not Mistral 7B
    return _distinct(meant), words & frozenset().union(*(alias for _, alias in meant))


def _telling(words: Words, alias: Words) -> Words:
    """Words of a name that an alias has to have: what says something, and what this alias's kin are told apart by."""
    return frozenset(w for w in words if w in alias or not _says_nothing(w) or DATE.fullmatch(w)) - LEVELS


def _harmless(left: Words, entry: CatalogEntry) -> bool:
    """Whether words beyond the alias leave the entry what it is."""
    kind = entry.inference.kind
    for word in left:
        if _says_nothing(word) or word in BASES:
            continue
        if word in THINKS and kind != "never":
            continue
        if word in LEVELS and kind not in ("never", "unknown"):
            continue
        return False
    return True


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


def _distinct(rows: list[tuple[CatalogEntry, Words]]) -> list[CatalogEntry]:
    return list({e.name: e for e, _ in rows}.values())


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
    for _, alias, head in _aliases():
        if head in words:
            heads[head] = max(heads.get(head, 0), len(alias & words))
    place = _by_config("unknown", "unknown")
    if not heads:
        return f"{place}; a hosted model's documentation"
    head = max(heads, key=lambda h: heads[h])
    vendors = {e.vendor for e, _, first in _aliases() if first == head}
    if len(vendors) == 1 and None not in vendors:
        place = f"the documentation of {vendors.pop()}"
    known = frozenset().union(*(alias for _, alias, first in _aliases() if first == head))
    odd = sorted(w for w in words if w not in known and not _says_nothing(w))
    why = f"{', '.join(odd)} is not known of {head}" if odd else f"no {head} of the catalog is called so"
    return f"{why}; {place}"
