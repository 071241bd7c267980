"""What chat templates may do with a value: the available methods, filters and tests, each with its cost measured.

The filters are Jinja's own, but for two: `random`, since one conversation has to give one prompt, and `urlize`, which
makes links of a page and takes quadratic time.
"""

import html
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from string import Formatter
from typing import Any
from urllib.parse import quote

import jinja2.filters
import jinja2.tests
from jinja2 import Undefined, pass_environment

from trilens.text.meter import OverLimit, meter

MAX_NEEDLE = 200  # characters to strip, or to search for from the right
MAX_LAID_OUT = 20_000  # characters that `wordwrap` and `pprint` take; their work can grow with the square


# ---- methods of texts, lists and dicts; a check is called with the object and the arguments before the method is ----


def _check_replace(text: str, old: str, new: str, count: int = -1) -> None:
    found = text.count(old)
    meter().fits(len(text) + (found if count < 0 else min(found, count)) * max(0, len(new) - len(old)))


def _check_width(text: str, width: int, *fill: str) -> None:
    meter().fits(width)


def _check_expandtabs(text: str, tabsize: int = 8) -> None:
    meter().fits(len(text) + text.count("\t") * tabsize)


def _check_needle(text: str, needle: str | None = None, *limits: int, **options: int) -> None:
    """For methods whose work is the product of both lengths."""
    if needle is not None and len(needle) > MAX_NEEDLE:
        raise OverLimit(f"it strips or searches backwards for {len(needle)} characters; {MAX_NEEDLE} are allowed")


TEXT_METHODS: dict[str, Callable[..., None] | None] = {
    **dict.fromkeys(
        "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower isnumeric "
        "isspace istitle isupper lower partition removeprefix removesuffix split splitlines startswith swapcase title "
        "upper".split()
    ),
    **dict.fromkeys("lstrip rfind rindex rpartition rsplit rstrip strip".split(), _check_needle),
    "replace": _check_replace,
    "join": None,  # done by `joined`
    "expandtabs": _check_expandtabs,
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _check_width),
}
METHODS: dict[type, dict[str, Callable[..., None] | None]] = {
    str: TEXT_METHODS,
    dict: dict.fromkeys(("get", "items", "keys", "values", "copy")),
    list: dict.fromkeys(("index", "count", "copy")),
    tuple: dict.fromkeys(("index", "count")),
}

_LONG_NUMBER = re.compile(r"\d{4}|\*")


def check_format(pattern: str, args: Iterable[Any]) -> None:
    """For str.format: bounded widths, and no more text than fields times arguments."""
    fields = 0
    for _, name, spec, _ in Formatter().parse(pattern):
        if name is not None:
            fields += 1
            if _LONG_NUMBER.search(spec or "") or "{" in (spec or ""):
                raise OverLimit(f"it formats with {spec!r}")
    meter().fits(len(pattern) + fields * (1000 + sum(map(meter().weigh, args))))


def check_percent(pattern: str, value: Any) -> None:
    """For the % operator on a text."""
    if _LONG_NUMBER.search(pattern):
        raise OverLimit(f"it formats with {pattern[:40]!r}")
    meter().fits(len(pattern) + pattern.count("%") * (1000 + meter().weigh(value)))


# ---- filters ----


@pass_environment
def _join(environment: Any, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    pick = jinja2.filters.make_attrgetter(environment, attribute) if attribute is not None else lambda item: item
    return joined([meter().text(pick(item)) for item in value], meter().text(d))


def joined(parts: list[str], separator: str = "") -> str:
    meter().fits(sum(map(len, parts)) + len(separator) * len(parts))
    return separator.join(parts)


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = meter().text(value), meter().text(old), meter().text(new)
    _check_replace(text, old, new, -1 if count is None else count)
    return text.replace(old, new, -1 if count is None else count)


def _indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    space = width if isinstance(width, str) else " " * min(width, 1000)
    text = meter().text(value)
    lines = f"{text}\n".splitlines()
    meter().fits(len(text) + len(space) * (len(lines) + 1))
    rest = [space + line if line or blank else line for line in lines[1:]]
    return "\n".join([(space if first else "") + lines[0], *rest])


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    text = meter().text(value)
    check_percent(text, kwargs or args)
    return text % (kwargs or args)


def _escape(value: Any) -> str:
    pairs = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&#39;"), ('"', "&#34;"))
    text = meter().text(value)
    for character, entity in pairs:
        text = _replace(text, character, entity)
    return text


def _trim(value: Any, chars: str | None = None) -> str:
    text = meter().text(value)
    _check_needle(text, chars)
    return text.strip(chars)


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if abs(precision) > 30:
        raise OverLimit(f"it rounds to {precision} places")
    return jinja2.filters.do_round(value, precision, method)  # type: ignore[arg-type]


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: no HTML escapes."""
    meter().weigh(value)
    if meter().weigh(indent) > 100 or meter().weigh(separators) > 100 or (isinstance(indent, int) and indent > 100):
        raise OverLimit("it indents JSON by more than any reader wants")
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, check_circular=False
    )
    parts, size = [], 0
    for part in encoder.iterencode(value):
        parts.append(part)
        size += len(part)
        meter().fits(size)
    return "".join(parts)


@pass_environment
def _attr(environment: Any, value: Any, name: str) -> Any:
    """An attribute, never an item: of plain data these are the methods that are listed."""
    listed = {**METHODS.get(type(value), {}), **({"format": None} if isinstance(value, str) else {})}
    if name.startswith("_") or name in listed or not isinstance(value, tuple(METHODS)):
        return environment.getattr(value, name)
    return environment.undefined(obj=value, name=name)


@pass_environment
def _sum(environment: Any, value: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    pick = jinja2.filters.make_attrgetter(environment, attribute) if attribute is not None else lambda item: item
    if isinstance(start, str):
        raise TypeError("sum cannot add texts; expected a join")
    for item in value:
        start = environment.call_binop(None, "+", start, pick(item))
    return start


def _batch(value: Iterable[Any], linecount: int, fill_with: Any = None) -> list[Any]:
    if fill_with is not None:
        _check_items(linecount)
    return list(jinja2.filters.do_batch(value, linecount, fill_with))


def _slice(value: Iterable[Any], slices: int, fill_with: Any = None) -> list[Any]:
    _check_items(slices)
    return list(jinja2.filters.sync_do_slice(value, slices, fill_with))  # type: ignore[arg-type]


def _check_items(count: int) -> None:
    meter().fits(count)
    meter().spend(100 * max(0, count))


def _center(value: Any, width: int = 80) -> str:
    meter().fits(width)
    return meter().text(value).center(width)


def _filesizeformat(value: Any, binary: bool = False) -> str:
    return jinja2.filters.do_filesizeformat(meter().text(value), binary)


def _pprint(value: Any) -> str:
    if meter().weigh(value) > MAX_LAID_OUT:
        raise OverLimit(f"it pretty-prints more than {MAX_LAID_OUT} characters")
    return jinja2.filters.do_pprint(value)


@pass_environment
def _wordwrap(
    environment: Any,
    value: Any,
    width: int = 79,
    break_long_words: bool = True,
    wrapstring: str | None = None,
    break_on_hyphens: bool = True,
) -> str:
    text = meter().text(value)
    if len(text) > MAX_LAID_OUT:
        raise OverLimit(f"it wraps {len(text)} characters; {MAX_LAID_OUT} are allowed")
    meter().fits(len(text) * (1 + len(wrapstring or "\n")))
    return jinja2.filters.do_wordwrap(environment, text, width, break_long_words, wrapstring, break_on_hyphens)


@pass_environment
def _truncate(
    environment: Any, value: Any, length: int = 255, killwords: bool = False, end: str = "...", leeway: Any = None
) -> str:
    return jinja2.filters.do_truncate(environment, meter().text(value), length, killwords, end, leeway)


def _striptags(value: Any) -> str:
    text = meter().text(value)
    for opening, closing in (("<!--", "-->"), ("<", ">")):
        text = _without(text, opening, closing)
    return " ".join(html.unescape(text).split())


def _without(text: str, opening: str, closing: str) -> str:
    """The text without the parts between two marks, in one pass. A part that is never closed stays."""
    kept, at = [], 0
    while (start := text.find(opening, at)) >= 0 and (end := text.find(closing, start)) >= 0:
        kept.append(text[at:start])
        at = end + len(closing)
    return "".join([*kept, text[at:]])


def _urlencode(value: Any) -> str:
    def quoted(part: Any, safe: str = "") -> str:
        text = meter().text(part)
        meter().fits(12 * len(text))  # four bytes a character, three characters a byte
        return quote(text.encode(), safe=safe)

    if not isinstance(value, (dict, list, tuple)):
        return quoted(value, "/")
    pairs = value.items() if isinstance(value, dict) else value
    parts = [f"{quoted(key)}={quoted(item)}".replace("%20", "+") for key, item in pairs]
    return joined(parts, "&")


def _xmlattr(value: Mapping[str, Any], autospace: bool = True) -> str:
    found = []
    for key, item in value.items():
        if item is None or isinstance(item, Undefined):
            continue
        if _NO_KEY.search(key):
            raise ValueError(f"the attribute name {key!r:.40} holds a space or a mark")
        found.append(f'{_escape(key)}="{_escape(item)}"')
    return (" " if autospace and found else "") + joined(found, " ")


_NO_KEY = re.compile(r"[\s/>=]", re.ASCII)


def _on_text(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda value, *args, **kwargs: function(meter().text(value), *args, **kwargs)


def metered(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function, assigned=())  # only Jinja's marks of what it passes first; built-ins have no more
    def run(*args: Any, **kwargs: Any) -> Any:
        meter().tick()
        return meter().shared(function(*args, **kwargs))

    return run


_BUILTIN = jinja2.filters.FILTERS
FILTERS: dict[str, Callable[..., Any]] = {
    **{
        name: _BUILTIN[name]
        for name in (
            "abs count d default dictsort first float groupby int items last length list map max min reject "
            "rejectattr reverse select selectattr sort unique"
        ).split()
    },
    **{name: _on_text(_BUILTIN[name]) for name in "capitalize lower title upper wordcount".split()},
    "string": _on_text(str),
    "safe": _on_text(str),
    "attr": _attr,
    "batch": _batch,
    "center": _center,
    "e": _escape,
    "escape": _escape,
    "filesizeformat": _filesizeformat,
    "forceescape": _escape,
    "format": _format,
    "indent": _indent,
    "join": _join,
    "pprint": _pprint,
    "replace": _replace,
    "round": _round,
    "slice": _slice,
    "striptags": _striptags,
    "sum": _sum,
    "tojson": _tojson,
    "trim": _trim,
    "truncate": _truncate,
    "urlencode": _urlencode,
    "wordwrap": _wordwrap,
    "xmlattr": _xmlattr,
}
TESTS: dict[str, Any] = {
    **jinja2.tests.TESTS,
    "lower": _on_text(str.islower),
    "upper": _on_text(str.isupper),
}
