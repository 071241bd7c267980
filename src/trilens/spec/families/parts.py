"""What families have in common: the plain decoder, its rotary positions, masks and experts, and ways to vary them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from trilens.errors import BadCheckpoint, UnsupportedModel
from trilens.spec.keys import Keys
from trilens.spec.model import (
    Attention,
    Curve,
    Dense,
    DynamicScaling,
    ExpertGroups,
    FeedForward,
    Fixed,
    Full,
    GatedRecurrence,
    Glu,
    Head,
    LatentAttention,
    Layer,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Mask,
    Mixer,
    ModelSpec,
    Norm,
    Positions,
    PositionScale,
    ProportionalScaling,
    QueryKeyNorm,
    Rope,
    ShortConvolution,
    SideBySide,
    State,
    Window,
    YarnScaling,
)
from trilens.spec.rope import longrope_attention_factor, yarn_attention_factor

S = TypeVar("S", Positions, Fixed)

MOST_LAYERS = 1000  # the spec writes every layer out

WIDEST_HEAD = 2**16  # numbers in a head; its rotary table is written out, a number a pair

ACTIVATIONS = {
    "silu": Curve.SILU,
    "swish": Curve.SILU,
    "gelu": Curve.GELU,
    "gelu_pytorch_tanh": Curve.GELU_TANH,
    "gelu_new": Curve.GELU_TANH,
    "gelu_fast": Curve.GELU_TANH,
    "relu": Curve.RELU,
    "relu2": Curve.RELU2,
}


def decoder_only(
    k: Keys,
    family: str,
    *,
    qkv_bias: bool = False,
    out_bias: bool = False,
    mlp_bias: bool = False,
    norm: Norm | None = None,
    mask: Callable[[int], Mask] = lambda i: Full(),
    rope: Callable[[int], Rope | None] | None = None,
    feed_forward: Callable[[int], FeedForward] | None = None,
    heads_of: Sequence[int] | None = None,
    kv_heads_of: Sequence[int] | None = None,
    value_dim: int | None = None,
) -> ModelSpec:
    """The arrangement most families share: norm, attention, add, norm, feed-forward, add, with one cache a layer.

    `heads_of` and `kv_heads_of`: heads of each layer, where they differ; `value_dim`: where values are not as wide as
    keys.

    What a family does differently on every layer is put in afterwards, with `attentions` and `layers`.
    """
    width, count = k.integer("hidden_size"), layer_count(k)
    heads = k.integer("num_attention_heads")
    kv_heads = kv_heads_of or k.for_each("num_key_value_heads", count, heads)
    heads_of = heads_of or (heads,) * count
    head_dim = stated_head_dim(k, width, heads)
    context = k.length("max_position_embeddings", 2048)
    norm = norm or Norm(k.number("rms_norm_eps", 1e-6, least=0, most=1))
    if rope is None:
        everywhere = read_rope(k, head_dim, context)
        rope = lambda i: everywhere  # noqa: E731
    if feed_forward is None:
        dense = Dense(k.integer("intermediate_size"), Glu(activation(k)), mlp_bias)
        feed_forward = lambda i: dense  # noqa: E731
    caches = tuple(Positions(i, kv_heads[i], head_dim, value_dim or head_dim, mask(i)) for i in range(count))
    return ModelSpec(
        family=family,
        vocab=k.integer("vocab_size"),
        width=width,
        context=context,
        states=caches,
        final_norm=norm,
        head=Head(tied=k.flag("tie_word_embeddings", False)),
        layers=tuple(
            Layer(
                mixer=Attention(
                    heads=heads_of[i],
                    cache=cache,
                    scale=head_dim**-0.5,
                    mask=cache.keep,
                    rope=rope(i),
                    qkv_bias=qkv_bias,
                    out_bias=out_bias,
                ),
                feed_forward=feed_forward(i),
                mixer_in=norm,
                mixer_out=None,
                feed_forward_in=norm,
                feed_forward_out=None,
            )
            for i, cache in enumerate(caches)
        ),
    )


# ---------------------------------------------------------------------------- variations on every layer


def attentions(spec: ModelSpec, **fields: Any) -> ModelSpec:
    """The same model with these fields of the attention changed on every layer that has it."""

    return each_layer(spec, lambda i, layer: with_attention(layer, **fields))


def with_attention(layer: Layer, **fields: Any) -> Layer:
    """The same layer with these fields of its attention changed; a layer without attention as it is."""
    match layer.mixer:
        case Attention() | LatentAttention() as attention:
            return replace(layer, mixer=replace(attention, **fields))
        case SideBySide(attention=attention) as both:
            return replace(layer, mixer=replace(both, attention=replace(attention, **fields)))
        case ShortConvolution() | GatedRecurrence() | None:
            return layer


def renumbered(spec: ModelSpec) -> ModelSpec:
    """The same model with its layers' states numbered from 0 on, each layer's own; for families that took some away or
    put some in."""
    states: list[State] = []

    def numbered(state: S) -> S:
        states.append(replace(state, index=len(states)))
        return cast(S, states[-1])

    def own(mixer: Mixer | None) -> Mixer | None:
        match mixer:
            case Attention() as a:
                return replace(a, cache=numbered(a.cache))
            case LatentAttention() as a:
                cache, index = numbered(a.cache), a.index
                return replace(a, cache=cache, index=index and replace(index, cache=numbered(index.cache)))
            case ShortConvolution() | GatedRecurrence() as r:
                return replace(r, state=numbered(r.state))
            case SideBySide(attention=a, recurrence=r):
                cache, state = numbered(a.cache), numbered(r.state)
                return SideBySide(replace(a, cache=cache), replace(r, state=state))
            case None:
                return None

    stack = tuple(replace(layer, mixer=own(layer.mixer)) for layer in spec.layers)
    return replace(spec, layers=stack, states=tuple(states))


def layers(spec: ModelSpec, **fields: Any) -> ModelSpec:
    """The same model with these fields of every layer changed."""
    return each_layer(spec, lambda i, layer: replace(layer, **fields))


def each_layer(spec: ModelSpec, change: Callable[[int, Layer], Layer]) -> ModelSpec:
    return replace(spec, layers=tuple(change(i, layer) for i, layer in enumerate(spec.layers)))


def norms_around(spec: ModelSpec) -> ModelSpec:
    """A norm before and one after each branch."""
    norm = spec.final_norm
    return layers(spec, mixer_out=norm, feed_forward_out=norm)


def norms_behind(spec: ModelSpec) -> ModelSpec:
    """A norm after each branch, none before it."""
    return layers(norms_around(spec), mixer_in=None, feed_forward_in=None)


def parallel(spec: ModelSpec, *, shared: bool) -> ModelSpec:
    """Attention and feed-forward both read the layer's input; through one norm where it is `shared`."""
    return layers(spec, parallel=True, **({"feed_forward_in": None} if shared else {}))


def without_gate(k: Keys, act: str = "hidden_act", *, bias: bool) -> Callable[[int], FeedForward]:
    """Two matrices with a curve between them, on every layer."""
    dense = Dense(k.integer("intermediate_size"), activation(k, act), bias)
    return lambda i: dense


def layer_norm(k: Keys, name: str = "layer_norm_eps", *, bias: bool = True) -> Norm:
    return Norm(k.number(name, 1e-5, least=0, most=1), centred=True, bias=bias)


def head_norms(spec: ModelSpec) -> ModelSpec:
    """Every head of queries and keys normalised before the rotation."""
    return attentions(spec, qk_norm=QueryKeyNorm(spec.final_norm))


def whole_norms(spec: ModelSpec) -> ModelSpec:
    """All heads of queries normalised together, and all of keys."""
    return attentions(spec, qk_norm=QueryKeyNorm(spec.final_norm, whole=True))


# ------------------------------------------------------------------------------------------ single keys


def layer_count(k: Keys) -> int:
    return k.integer("num_hidden_layers", most=MOST_LAYERS)


def stated_head_dim(k: Keys, width: int, heads: int) -> int:
    """`head_dim` where it is stated; otherwise the width shared out among the heads."""
    if "head_dim" in k:
        return k.integer("head_dim", most=WIDEST_HEAD)
    if width % heads:
        expected = f"a divisor of {k.spell('hidden_size')}, {width}, or a stated {k.spell('head_dim')}"
        raise k.wrong("num_attention_heads", heads, expected)
    k.ignore("head_dim")
    return width // heads


def activation(k: Keys, name: str = "hidden_act") -> Curve:
    act = k.text(name, "silu")
    if act not in ACTIVATIONS:
        raise UnsupportedModel(
            f"{k.where}: {k.spell(name)} {act!r} is not supported; supported: {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[act]


def optional_number(k: Keys, name: str) -> float | None:
    k.ignore(name)
    return k.positive(name) if name in k else None


def repeated(k: Keys, values: Mapping[str, object]) -> None:
    """Keys that say again what others say, and must agree with them."""
    for name, expected in values.items():
        if name in k and k.raw(name) != expected:
            raise k.wrong(name, k.values[name], str(expected))
        k.ignore(name)


def expert_groups(k: Keys, best: int) -> ExpertGroups | None:
    """`n_group`, `topk_group`; none where every group may fire."""
    count, chosen = k.integer("n_group", 1), k.integer("topk_group", 1)
    if chosen > count:
        raise k.wrong("topk_group", chosen, f"no more than {k.spell('n_group')}, {count}")
    return ExpertGroups(count, chosen, best) if chosen < count else None


# ------------------------------------------------------------------------------------------------ masks


def window_mask(k: Keys, context: int) -> Mask:
    """`sliding_window`, where it is stated and shorter than the context."""
    k.ignore("sliding_window")
    size = k.length("sliding_window") if "sliding_window" in k else context
    return Window(size) if size < context else Full()


def layer_types(
    k: Keys, default: Callable[[int], str], known: tuple[str, ...] = ("sliding_attention", "full_attention")
) -> tuple[str, ...]:
    """`layer_types`, or the family's own pattern; each of them must be one of `known`."""
    count = layer_count(k)
    types = k.texts("layer_types", count) or tuple(default(i) for i in range(count))
    for name in types:
        if name not in known:
            expected = ", ".join(known)
            raise UnsupportedModel(
                f"{k.where}: {k.spell('layer_types')} names {name!r}, which is not supported; supported: {expected}"
            )
    return types


def masks_by_type(k: Keys, types: tuple[str, ...]) -> Callable[[int], Mask]:
    window = Window(k.length("sliding_window")) if "sliding_attention" in types else Full()
    k.ignore("sliding_window")
    return lambda i: window if types[i] == "sliding_attention" else Full()


# ----------------------------------------------------------------------------------------------- ropes


def read_rope(k: Keys, dim: int, context: int, *, interleaved: bool = False) -> Rope:
    """`rope_parameters` (transformers 5), or `rope_theta` with `rope_scaling` (before)."""
    rules = rope_rules(k)
    return scaled_rope(k, rules, partial_dim(k, rules, dim), rope_theta(k, rules), context, interleaved)


def rope_rules(k: Keys) -> Keys | None:
    """The stated ones under either name; what a family assumes only where neither is there."""
    names = ("rope_parameters", "rope_scaling")
    k.ignore("rope_theta", *names)
    stated = [name for name in names if name in k.values]
    return next((rules for rules in map(k.mapping, stated or names) if rules is not None), None)


def rope_theta(k: Keys, rules: Keys | None) -> float:
    return (rules if rules and "rope_theta" in rules else k).number("rope_theta", 10000.0, least=1.001, most=1e12)


def partial_dim(k: Keys, rules: Keys | None, dim: int) -> int:
    """The dimensions of a head that turn."""
    k.ignore("partial_rotary_factor")
    for place in (rules, k):
        if place is not None and "partial_rotary_factor" in place:
            return int(dim * place.positive("partial_rotary_factor", most=1))
    return dim


def ropes_by_type(
    k: Keys, dims: Mapping[str, int], context: int, *, local_theta: Callable[[float], float]
) -> dict[str, Rope]:
    """One rope for each type of layer: nested rules (transformers 5), or before that scaled ones for full attention
    and plain ones of theta `local_theta(theta)` for windows."""
    rules = rope_rules(k)
    ropes = {}
    nested = rules is not None and any(isinstance(v, Mapping) for v in rules.values.values())
    if rules is not None and nested:
        rules.ignore("full_attention", "sliding_attention")  # a type may have rules and no layer
    for kind, dim in dims.items():
        own = rules.mapping(kind) if rules is not None and nested else rules
        theta = rope_theta(k, own)
        if not nested and kind == "sliding_attention":
            own, theta = None, local_theta(theta)
        dim = dim if own is not None and own.values.get("rope_type") == "proportional" else partial_dim(k, own, dim)
        ropes[kind] = scaled_rope(k, own, dim, theta, context)
    return ropes


def scaled_rope(k: Keys, rules: Keys | None, dim: int, theta: float, context: int, interleaved: bool = False) -> Rope:
    """One rope from the rules of `rope_scaling`, by the type they name."""
    if dim < 2 or dim % 2:
        said_by = dict.fromkeys(map(k.spell, ("head_dim", "partial_rotary_factor", "qk_rope_head_dim")))
        raise BadCheckpoint(
            f"{k.where}: rotary positions over {dim} dimensions of a head; expected a positive even number "
            f"({', '.join(said_by)})"
        )
    if rules is None:
        return Rope(dim, theta, None, interleaved)
    rules.ignore("type", "max_position_embeddings")
    rules.ignore("mrope_section", "mrope_interleaved")  # of text all three positions are the same
    named = "rope_type" if rules.raw("rope_type") else "type"
    kind = rules.raw(named) or "default"
    original = original_context(k, rules, context)
    match kind:
        case "default" | "mrope":
            rules.ignore("factor", "original_max_position_embeddings")
            return Rope(dim, theta, None, interleaved)
        case "linear":
            return Rope(dim, theta, LinearScaling(rules.positive("factor")), interleaved)
        case "dynamic":
            if dim == 2:
                raise rules.wrong("rope_type", kind, "another rule for heads of 2 dimensions")
            if "alpha" in rules:  # theta is stretched once and for all
                rules.ignore("factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
                return Rope(dim, theta * rules.positive("alpha") ** (dim / (dim - 2)), None, interleaved)
            # transformers takes the model's own context as the point where the growth begins
            return Rope(dim, theta, DynamicScaling(rules.positive("factor"), context), interleaved)
        case "proportional":
            rotated = int(rules.positive("partial_rotary_factor", 1.0, most=1) * dim // 2)
            factor = rules.positive("factor") if "factor" in rules else 1.0
            return Rope(dim, theta, ProportionalScaling(rotated, factor), interleaved)
        case "llama3":
            low, high = rules.positive("low_freq_factor"), rules.positive("high_freq_factor")
            if low > high:
                raise rules.wrong("high_freq_factor", high, f"no less than {rules.spell('low_freq_factor')}, {low:g}")
            llama3 = Llama3Scaling(rules.positive("factor"), low, high, original)
            return Rope(dim, theta, llama3, interleaved)
        case "yarn":
            factor = rules.positive("factor", context / original)
            if "attention_factor" in rules:
                stretch = rules.positive("attention_factor")
                rules.ignore("mscale", "mscale_all_dim")
            elif rules.raw("mscale") and rules.raw("mscale_all_dim"):
                whole = yarn_attention_factor(factor, rules.number("mscale_all_dim", least=0))
                stretch = yarn_attention_factor(factor, rules.number("mscale", least=0)) / whole
            else:
                stretch = yarn_attention_factor(factor)
            fast, slow = rules.positive("beta_fast", 32.0), rules.positive("beta_slow", 1.0)
            if fast < slow:
                raise rules.wrong("beta_fast", fast, f"no less than {rules.spell('beta_slow')}, {slow:g}")
            yarn = YarnScaling(factor, original, fast, slow, rules.flag("truncate", True))
            return Rope(dim, theta, yarn, interleaved, stretch)
        case "longrope" | "su":
            factor = rules.positive("factor") if "factor" in rules else context / original
            short, long = rules.divisors("short_factor", dim // 2), rules.divisors("long_factor", dim // 2)
            stretch = longrope_attention_factor(factor, original)
            if "attention_factor" in rules:
                stretch = rules.positive("attention_factor")
            return Rope(dim, theta, LongRopeScaling(short, long, original), interleaved, stretch)
        case _:
            raise rules.unknown(named, kind)


def original_context(k: Keys, rules: Keys, context: int) -> int:
    """The context before scaling: from the rules, else from the top level, else the model's."""
    k.ignore("original_max_position_embeddings")
    for place in (rules, k):
        if "original_max_position_embeddings" in place:
            return place.length("original_max_position_embeddings", least=2)
    return context


def query_growth(k: Keys) -> PositionScale | None:
    """`llama_4_scaling_beta` among the rope's rules: queries grow with every original context passed."""
    rules = rope_rules(k)
    if rules is None or "llama_4_scaling_beta" not in rules:
        return None
    beta = rules.number("llama_4_scaling_beta", least=0)
    return PositionScale(beta, float(original_context(k, rules, k.length("max_position_embeddings"))))
