"""Jinja for templates that may be hostile: a list of what they may do, and a meter for how much.

Jinja's own sandbox blocks attributes that begin with an underscore. It does not stop a template from filling the memory
or running forever; `meter` does. Names, filters and methods that are not listed do not exist.

Two things are not covered. A single step on values of the allowed size (milliseconds) is not interrupted. And parsing
and compiling the template is not measured; MAX_SOURCE limits it.
"""

import sys
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import jinja2.runtime
from jinja2 import Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Joiner, Namespace
from jinja2.visitor import NodeTransformer

from trilens.text.filters import FILTERS, METHODS, TESTS, check_format, check_percent, joined, metered
from trilens.text.meter import MAX_BITS, OverLimit, TemplateRefusal, kind, meter

MAX_SOURCE = 100_000  # characters; the longest templates in use have 20,000


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


# ---- the environment ----


class Request(Extension):
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
    raise TemplateRefusal(meter().text(message))


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
            extensions=["jinja2.ext.loopcontrols", Request],
            optimized=False,
            finalize=_finalize,
        )
        self.filters = {name: metered(function) for name, function in FILTERS.items()}
        self.tests = {name: metered(function) for name, function in TESTS.items()}
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
            lambda *parts: meter().shared(joined([meter().text(part) for part in parts])), measured=True
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
            return meter().fresh(joined(list(*args), __obj.__self__))
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
                check_percent(left, right)
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
        raise SecurityError(f"it accesses {attribute!r} of a {type(obj).__name__}")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        checked = super().wrap_str_format(value)
        if checked is None:
            return None
        pattern = value.__self__

        def run(*args: Any, **kwargs: Any) -> str:
            check_format(pattern, [*args, *kwargs.values()])
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
        raise SecurityError(f"it calls {kind(function)}, which templates do not need")
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
            raise SecurityError(f"it uses {{% {type(node).__name__.lower()} %}}, which templates do not need")
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
