"""What a name means: the one place where names are looked up, for every command alike.

A name becomes a set of words. An alias of the catalog fits if all its words are there and whatever else is there means
nothing for the wiring (a file type, a date). A name that says less than the aliases ("Gemma 4") may mean all that
complete it. A word that nobody knows makes a name unknown: a fine-tune or a merge may be anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from trilens.errors import AmbiguousName
from trilens.spec.catalog import CatalogEntry, entries
from trilens.spec.catalog.words import (
    BACKBONES,
    BASES,
    CHAT,
    DATE,
    FAMILIES,
    FORMS,
    LEVELS,
    QUANTISED,
    SIZE,
    THINKS,
    Words,
    says_nothing,
    split,
    words_of,
)


@dataclass(frozen=True)
class Meaning:
    """The models that a name may mean, none where it is unknown. `used`: its words that were used for that.

    `certain`: it means the one model and no other. `form`: words that ask for other files than those of that model,
    such as "q4_k_m" or "0905".
    """

    name: str
    models: tuple[CatalogEntry, ...]
    used: Words
    certain: bool
    form: tuple[str, ...] = ()


def meaning(name: str) -> Meaning:
    words = words_of(name)
    called = _by_name().get(name.lower())
    if called is not None and (called.can_be_counted or called.hosted):
        return Meaning(name, (called,), words, certain=True)
    models, used, whole = _fitting(words)
    for word, backbone in BACKBONES.items():
        if not models and word in words:
            models, used, whole = _fitting(words - {word}, backbone)
            used |= {word}
    models, used = _with_numbers(models, used, words, chat=":" in name)
    certain = len(models) == 1 and (whole or _only_a_size_is_missing(models[0], words))
    return Meaning(name, tuple(models), used, certain, _form(words, models[0]) if certain else ())


def certain(name: str) -> CatalogEntry | None:
    """The one model that a name means, None for a name that the catalog does not know. Raises AmbiguousName."""
    meant = meaning(name)
    if meant.models and not meant.certain:
        raise AmbiguousName(name, tuple(model.name for model in meant.models))
    return meant.models[0] if meant.models else None


@cache
def _by_name() -> dict[str, CatalogEntry]:
    rows = {alias.lower(): entry for entry in entries().values() for alias in entry.aliases if not entry.stem}
    return rows | {entry.name.lower(): entry for entry in entries().values()}


@cache
def aliases() -> tuple[tuple[CatalogEntry, Words, str], ...]:
    """(entry, the words of one alias of it, the alias's first word) for every entry and alias."""
    rows = []
    for entry in entries().values():
        for alias in (entry.name, *entry.aliases):
            ordered = split(alias)
            if ordered:
                rows.append((entry, frozenset(ordered), ordered[0]))
    return tuple(rows)


def _fitting(words: Words, backbone: str | None = None) -> tuple[list[CatalogEntry], Words, bool]:
    """The entries that a name may mean, those of its words that were used for it, and whether it says all the words
    of one of their aliases. No entry if a word is unknown. `backbone`: entries with this one only."""
    rows = [row for row in aliases() if backbone in (None, row[0].backbone)]
    whole = [(e, alias) for e, alias, _ in rows if alias <= words and _harmless(words - alias, e)]
    if whole:
        most = max(len(alias) for _, alias in whole)
        best = [(e, alias) for e, alias in whole if len(alias) == most]
        left = words - best[0][1] - LEVELS
        claimed = [(e, alias) for e, alias, _ in rows if any(best[0][1] | {w} <= alias for w in left)]
        fuller = [(e, alias) for e, alias in claimed if _telling(words, alias) <= alias]
        if not claimed or (not fuller and all(says_nothing(w) for w in left)):
            return _distinct(best), best[0][1], True
        if left & THINKS and fuller:
            return _distinct([*best, *fuller]), best[0][1], False
        near = [(e, alias) for e, alias in fuller if all(DATE.fullmatch(w) for w in alias - words)] or fuller
        return _distinct(near), frozenset().union(*(alias for _, alias in near)), False
    said = frozenset(w for w in words if not says_nothing(w)) - BASES
    part = [(e, alias) for e, alias, head in rows if head in words and said <= alias and _harmless(words - alias, e)]
    if all(_only_a_vendor(words, e) for e, _ in part):
        part = []
    part = [(e, alias) for e, alias in part if not any(_variant(w) for w in alias - words)] or part
    sizes = [(e, alias) for e, alias in part if all(says_nothing(w) or SIZE.fullmatch(w) for w in alias - words)]
    narrow = len(said) > 1 or backbone is not None  # "mistral" alone is all that is called so, not Mistral 7B
    meant = sizes if sizes and narrow else part
    return _distinct(meant), words & frozenset().union(*(alias for _, alias in meant)), False


def _only_a_vendor(words: Words, entry: CatalogEntry) -> bool:
    """Whether they name the vendor of the entry and nothing of its own name: "openai", but not "deepseek"."""
    return words <= words_of(entry.vendor or "") and not words & words_of(entry.name)


def _variant(word: str) -> bool:
    """Whether a model with this word in its name is called by it whenever it is meant."""
    return word in BASES or bool(QUANTISED.fullmatch(word) or DATE.fullmatch(word))


def _with_numbers(
    models: list[CatalogEntry], used: Words, words: Words, *, chat: bool
) -> tuple[list[CatalogEntry], Words]:
    """In place of one model of which only the kind is known, its releases of which the catalog has the numbers, or
    the repository: gemma-3-4b-it for "Gemma 3 4B". `chat`: of a release before and one after training for
    conversation the latter is meant, as in Ollama's names."""
    if len(models) != 1 or models[0].hosted:
        return _without_doubles(models), used
    [model] = models
    kin = [
        (entry, alias)
        for entry, alias, _ in aliases()
        if used < alias
        and entry.can_be_counted
        and (entry.backbone, entry.inference.word) == (model.backbone, model.inference.word)
        and all(_same_release(word) for word in alias - used)
    ]
    if model.can_be_counted:
        talks = _distinct([(entry, alias) for entry, alias in kin if alias - used <= CHAT])
        return (talks, used) if chat and len(talks) == 1 and not words & BASES else (models, used)
    asked = [(entry, alias) for entry, alias in kin if (alias - used) & words] or kin
    found = _distinct(asked)
    if not found:
        return models, used
    return found, used | (words & frozenset().union(*(alias for _, alias in asked)))


def _without_doubles(models: list[CatalogEntry]) -> list[CatalogEntry]:
    """Less those of which only the kind is known and a release with numbers is there too."""
    of = {model.name: words_of(model.name) for model in models}
    counted = [model for model in models if model.can_be_counted]

    def doubled(model: CatalogEntry) -> bool:
        beyond = [of[other.name] - of[model.name] for other in counted if of[model.name] < of[other.name]]
        return any(all(_same_release(word) for word in words) for words in beyond)

    return [model for model in models if model in counted or not doubled(model)]


def _same_release(word: str) -> bool:
    return not _variant(word) and (says_nothing(word) or SIZE.fullmatch(word) is not None)


def _only_a_size_is_missing(model: CatalogEntry, words: Words) -> bool:
    """Whether some alias of the model has nothing beyond the name but sizes and words that say nothing."""
    return any(
        all(_same_release(word) for word in alias - words) for entry, alias, _ in aliases() if entry.name == model.name
    )


def _form(words: Words, model: CatalogEntry) -> tuple[str, ...]:
    if model.hosted:
        return ()
    named = frozenset().union(*(alias for entry, alias, _ in aliases() if entry.name == model.name))
    named |= words_of(model.hub or "")
    if model.inference.note is None or "base" not in model.inference.note:
        named |= CHAT  # of a model that converses, "chat" says nothing new
    left = (words - named) - THINKS - LEVELS
    return tuple(sorted(w for w in left if w in FORMS or DATE.fullmatch(w) or QUANTISED.fullmatch(w)))


def _telling(words: Words, alias: Words) -> Words:
    """Words of a name that an alias has to have: what says something, and what this alias's kin are told apart by."""
    return frozenset(w for w in words if w in alias or not says_nothing(w) or DATE.fullmatch(w)) - LEVELS


def _harmless(left: Words, entry: CatalogEntry) -> bool:
    """Whether words beyond the alias leave the entry what it is."""
    kind = entry.inference.kind
    for word in left:
        if entry.vendor is not None and word in FAMILIES and word not in entry.vendor.lower():
            return False
        if says_nothing(word) or word in BASES:
            continue
        if word in THINKS and kind != "never":
            continue
        if word in LEVELS and kind not in ("never", "unknown"):
            continue
        return False
    return True


def _distinct(rows: list[tuple[CatalogEntry, Words]]) -> list[CatalogEntry]:
    return list({e.name: e for e, _ in rows}.values())
