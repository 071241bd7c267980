"""Jinja for templates that may be hostile: a list of what they may do, and a meter on how much.

Jinja's own sandbox keeps a template from attributes that begin with an underscore. It does not keep it from filling
the memory or from never ending. Here every operation whose result can be larger than what went in is measured before
it is done, everything that is made is paid for out of one allowance, and every turn of a loop, call, filter, test and
comparison looks at the clock of its own thread. So what a template can cost is bounded, in any thread, with no signal
and no trace function. Names, filters and methods that are not listed do not exist.

Two things are not covered. One step on values of the allowed size takes its time (milliseconds) whatever the clock
says. And the text of the template itself is parsed and compiled unmeasured; MAX_SOURCE bounds that.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import cache, wraps
from string import Formatter
from typing import Any

import jinja2.filters
import jinja2.runtime
import jinja2.tests
from jinja2 import Undefined, nodes, pass_context, pass_environment
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Joiner, Namespace
from jinja2.visitor import NodeTransformer

SECONDS = 2.0  # of the thread's processor time, for one rendering
MAX_SOURCE = 100_000  # characters; the longest templates in use have 20,000
MEMORY = 64 << 20  # bytes for all that a rendering makes, before what the size of its input adds
MAX_TEXT = 1 << 20  # characters in one value, before what the size of its input adds
MAX_BITS = 8192  # of an integer
MAX_NEEDLE = 200  # characters to strip, or to search for from the right


class OverLimit(Exception):
    """A template does more than any template needs."""


class Refused(Exception):
    """`raise_exception(message)`: the template's own word on the conversation."""


class Meter:
    """What one rendering has used. Values are weighed as their text would be: an upper bound of its characters."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        """`inputs` is plain data; what a rendering may use grows with it."""
        self._deadline = time.thread_time() + SECONDS
        self._most = sys.maxsize
        # Containers cannot be changed in the sandbox, so each is weighed once. Holding it keeps its id from others.
        self._weights: dict[int, tuple[object, int]] = {}
        weight = self.weigh(inputs)
        self._memory = MEMORY + 64 * weight
        self._most = MAX_TEXT + 8 * weight

    def tick(self) -> bool:
        if time.thread_time() > self._deadline:
            raise OverLimit(f"it runs for more than {SECONDS:g} s")
        return True

    def turn(self, prints: int) -> bool:
        """One turn of a loop that prints at so many places: each print waits in a list until all are joined."""
        self.spend(16 * prints)
        return self.tick()

    def fits(self, characters: int) -> None:
        if characters > self._most:
            raise OverLimit(f"it makes a value of {characters} characters; {self._most} are allowed")

    def spend(self, size: int) -> None:
        self._memory -= size
        if self._memory < 0:
            raise OverLimit("it fills the memory")

    def weigh(self, value: Any) -> int:
        """Raises OverLimit for a value that is not plain data, since its text has no bound."""
        match value:
            case str():
                return len(value) + 2
            case bool() | float() | None | Undefined() | range():
                return 24
            case int():
                if value.bit_length() > MAX_BITS:
                    raise OverLimit(f"it makes a number of {value.bit_length()} bits; {MAX_BITS} are allowed")
                return 24 + value.bit_length() // 3
            case dict() | list() | tuple():
                known = self._weights.get(id(value))
                if known is None:
                    items = (part for pair in value.items() for part in pair) if isinstance(value, dict) else value
                    known = value, 4 + sum(self.weigh(item) + 2 for item in items)
                    self.fits(known[1] // 4)
                    self._weights[id(value)] = known
                return known[1]
            case _:
                raise OverLimit(f"it uses {_kind(value)} as if it were data")

    def shared(self, value: Any) -> Any:
        """Pay for a value whose parts are there already."""
        self.tick()
        if isinstance(value, (str, int, dict, list, tuple)):
            self.fits(self.weigh(value) // (1 if isinstance(value, str) else 4))
            self.spend(sys.getsizeof(value) + (0 if isinstance(value, (str, int)) else 60 * len(value)))
        return value

    def sliced(self, whole: Any, *bounds: int | None) -> Any:
        """A slice weighs no more than the whole, which need not be added up again."""
        part = whole[slice(*bounds)]
        if isinstance(part, (list, tuple)):
            self.tick()
            self._weights[id(part)] = part, self.weigh(whole)
            self.spend(sys.getsizeof(part))
            return part
        return self.shared(part)

    def fresh(self, value: Any) -> Any:
        """Pay for a value with all its parts."""
        if isinstance(value, (dict, list, tuple)):
            self.spend(self.weigh(value))
        return self.shared(value)

    def text(self, value: Any) -> str:
        """The text of plain data, as Jinja prints it."""
        if isinstance(value, str):
            return value
        self.fits(self.weigh(value))
        text = str(value)
        self.spend(sys.getsizeof(text))
        return text


METER: ContextVar[Meter] = ContextVar("meter")


def meter() -> Meter:
    return METER.get()


class Callback:
    """A function that templates may call, and that measures what it makes if `measured`."""

    def __init__(self, function: Callable[..., Any], *, measured: bool = False) -> None:
        self._function = function
        self.measured = measured

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


class PlainNamespace(Namespace):
    """Jinja's, without names that Python itself would look for in an object."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # no `self` by name, so that it can be one of the names
        values = dict(*args[1:], **kwargs)
        for name in values:
            _public(name)
        Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _public(name)
        Namespace.__setitem__(self, name, value)


def _public(name: object) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError(f"it stores {name!r} in a namespace")


def _kind(value: object) -> str:
    name = getattr(value, "__name__", None)
    return f"{type(value).__name__} {name!r}" if isinstance(name, str) else f"a {type(value).__name__}"


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
    "join": None,  # done by `_joined`
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


def _check_format(pattern: str, args: Iterable[Any]) -> None:
    """For str.format: bounded widths, and no more text than fields times arguments."""
    fields = 0
    for _, name, spec, _ in Formatter().parse(pattern):
        if name is not None:
            fields += 1
            if _LONG_NUMBER.search(spec or "") or "{" in (spec or ""):
                raise OverLimit(f"it formats with {spec!r}")
    meter().fits(len(pattern) + fields * (1000 + sum(map(meter().weigh, args))))


def _check_percent(pattern: str, value: Any) -> None:
    """For the % operator on a text."""
    if _LONG_NUMBER.search(pattern):
        raise OverLimit(f"it formats with {pattern[:40]!r}")
    meter().fits(len(pattern) + pattern.count("%") * (1000 + meter().weigh(value)))


# ---- filters ----


@pass_environment
def _join(environment: Any, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    pick = jinja2.filters.make_attrgetter(environment, attribute) if attribute is not None else lambda item: item
    return _joined([meter().text(pick(item)) for item in value], meter().text(d))


def _joined(parts: list[str], separator: str = "") -> str:
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
    _check_percent(text, kwargs or args)
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


def _on_text(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda value, *args, **kwargs: function(meter().text(value), *args, **kwargs)


def _metered(function: Callable[..., Any]) -> Callable[..., Any]:
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
    "e": _escape,
    "escape": _escape,
    "format": _format,
    "indent": _indent,
    "join": _join,
    "replace": _replace,
    "round": _round,
    "tojson": _tojson,
    "trim": _trim,
}
TESTS: dict[str, Any] = {
    **jinja2.tests.TESTS,
    "lower": _on_text(str.islower),
    "upper": _on_text(str.isupper),
}


# ---- the environment ----


class Generation(Extension):
    """`{% generation %}` marks what a model is trained on; it prints what stands in it."""

    tags = {"generation"}  # noqa: RUF012  (Jinja declares it as a variable of the instance)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _range(*bounds: int) -> range:
    if any(abs(bound) >= 1 << 53 for bound in bounds):  # numbers of equal hash could make a set crawl
        raise OverLimit("it counts beyond 2^53")
    return safe_range(*bounds)


def _raise_exception(message: Any = "") -> None:
    raise Refused(meter().text(message))


@pass_context
def _finalize(context: Any, value: Any) -> str:
    """What `{{ value }}` prints. That it takes the context keeps Jinja from computing values while compiling."""
    meter().tick()
    return meter().text(value)


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """The only way in is `from_string`; a rendering runs with METER set."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", Generation],
            optimized=False,
            finalize=_finalize,
        )
        self.filters = {name: _metered(function) for name, function in FILTERS.items()}
        self.tests = {name: _metered(function) for name, function in TESTS.items()}
        self.globals = {
            "range": Callback(_range),
            "dict": Callback(dict),
            "namespace": PlainNamespace,
            "joiner": Joiner,
            "raise_exception": Callback(_raise_exception),
        }
        # What _Instrument writes into templates.
        self.meter_tick = Callback(lambda prints=0: meter().turn(prints), measured=True)
        self.meter_built = Callback(lambda value: meter().shared(value), measured=True)
        self.meter_sliced = Callback(lambda whole, *bounds: meter().sliced(whole, *bounds), measured=True)
        self.meter_joined = Callback(
            lambda *parts: meter().shared(_joined([meter().text(part) for part in parts])), measured=True
        )

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Instrument().visit(source), *args, **kwargs)

    def concat(self, parts: Iterable[str]) -> str:
        """Joins what a template, a macro or a block has printed."""
        pieces = []
        size = 0
        for piece in parts:
            pieces.append(piece)
            size += len(piece)
            meter().fits(size)
        text = "".join(pieces)
        meter().spend(sys.getsizeof(text))
        return text

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(__obj, Callback) and __obj.measured:
            return __obj(*args)
        meter().tick()
        if isinstance(getattr(__obj, "__self__", None), str) and __obj.__name__ == "join":
            return meter().fresh(_joined(list(*args), __obj.__self__))
        if not isinstance(__obj, Undefined):
            # Inside loops and blocks Jinja passes their variables along, for functions that take the context.
            _check_call(__obj, args, {k: v for k, v in kwargs.items() if k not in ("_loop_vars", "_block_vars")})
        return meter().fresh(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        weight = meter().weigh(left) + meter().weigh(right)
        match operator, left, right:
            case "+", str(), str():
                meter().fits(weight)
            case "*", str() | list() | tuple(), int():
                meter().fits((len(left) if isinstance(left, str) else meter().weigh(left)) * max(0, right))
            case "*", int(), str() | list() | tuple():
                meter().fits((len(right) if isinstance(right, str) else meter().weigh(right)) * max(0, left))
            case "**", int(), int() if left.bit_length() * abs(right) > MAX_BITS:
                raise OverLimit(f"it raises a number to the power {right}")
            case "%", str(), _:
                _check_percent(left, right)
            case _:
                meter().fits(weight // 4)
        return meter().shared(super().call_binop(context, operator, left, right))

    def getattr(self, obj: Any, attribute: str) -> Any:
        meter().tick()
        if attribute.startswith("__"):
            self.unsafe_undefined(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        meter().tick()
        if isinstance(argument, str) and argument.startswith("__"):
            self.unsafe_undefined(obj, argument)
        return super().getitem(obj, argument)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        raise SecurityError(f"it reaches for {attribute!r} of a {type(obj).__name__}")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        checked = super().wrap_str_format(value)
        if checked is None:
            return None
        pattern = value.__self__

        def run(*args: Any, **kwargs: Any) -> str:
            _check_format(pattern, [*args, *kwargs.values()])
            return checked(*args, **kwargs)

        return Callback(run)


def _check_call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if function is PlainNamespace or function is Joiner:
        return
    if isinstance(function, (Callback, Joiner, jinja2.runtime.Macro, jinja2.runtime.LoopContext)):
        return
    owner = getattr(function, "__self__", None)
    name = getattr(function, "__name__", "")
    if isinstance(owner, jinja2.runtime.LoopContext) and name in ("cycle", "changed"):
        return
    methods = METHODS.get(type(owner), {})
    if name not in methods:
        raise SecurityError(f"it calls {_kind(function)}, which templates have no need for")
    if (check := methods[name]) is not None:
        check(owner, *args, **kwargs)


_ALLOWED = tuple(
    getattr(nodes, name)
    for name in (
        "Template Output TemplateData For If Macro CallBlock FilterBlock With Assign AssignBlock ExprStmt Scope Break "
        "Continue Name NSRef Const Tuple List Dict Pair Keyword CondExpr Filter Test Call Getitem Getattr Slice Concat "
        "Compare Operand BinExpr UnaryExpr"
    ).split()
)


class _Instrument(NodeTransformer):
    """Puts the meter into the parsed template, and refuses statements that are not listed."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        if not isinstance(node, _ALLOWED):
            raise SecurityError(f"it uses {{% {type(node).__name__.lower()} %}}, which templates have no need for")
        return super().generic_visit(node, *args, **kwargs)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        prints = nodes.Const(len(list(node.find_all(nodes.Output))), lineno=node.lineno)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_callback("meter_tick", [prints], node), lineno=node.lineno))
        if node.test is not None:
            node.test = self._timed(node.test)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        return self._timed(self.generic_visit(node))

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _callback("meter_joined", node.nodes, node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        nothing = nodes.Const(None, lineno=node.lineno)
        bounds = [bound or nothing for bound in (node.arg.start, node.arg.stop, node.arg.step)]
        return _callback("meter_sliced", [node.node, *bounds], node)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._built(node, node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._built(node, node.items) if node.ctx == "load" else self.generic_visit(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._built(node, [pair.value for pair in node.items])

    def _built(self, node: nodes.Expr, parts: list[nodes.Expr]) -> nodes.Node:
        constant = all(isinstance(part, nodes.Const) for part in parts)  # then it is no larger than the source
        self.generic_visit(node)
        return node if constant else _callback("meter_built", [node], node)

    def _timed(self, node: nodes.Node) -> nodes.Expr:
        return nodes.And(_callback("meter_tick", [], node), node, lineno=node.lineno)


def _callback(name: str, args: list[Any], node: nodes.Node) -> nodes.Expr:
    function = nodes.EnvironmentAttribute(name, lineno=node.lineno)
    return nodes.Call(function, args, [], None, None, lineno=node.lineno)


@cache
def environment() -> MeteredEnvironment:
    return MeteredEnvironment()
