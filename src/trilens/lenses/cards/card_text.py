"""A card as text: a heading, then the three lenses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trilens.lenses.cards.moe import MoeLens
from trilens.lenses.cards.reasoning import THOUGHT
from trilens.lenses.layout import heading, paragraph, ranges, spaced, table, terminal_width
from trilens.notebook import bars, folded, pairs, preformatted, titled
from trilens.spec.model import (
    Attention,
    Chunk,
    Full,
    GatedRecurrence,
    LatentAttention,
    Mask,
    ModelSpec,
    ShortConvolution,
    Window,
)
from trilens.units import big, data, flop

if TYPE_CHECKING:
    from trilens.lenses.cards.card import Card, StatedCard


def card_text(card: Card, width: int | None = None) -> str:
    width = width or terminal_width()
    lines = _heading(card, width)
    lines += ["", *_dense(card, width), "", *_moe(card, width), "", *_reasoning(card, width)]
    return "\n".join(line.rstrip() for line in lines)


def card_html(card: Card) -> str:
    """For a notebook: the numbers that are asked for most, operations as bars, and the whole text folded away."""
    p, costs = card.parameters, card.dense.costs
    rows = [
        ("parameters", f"{big(p.total)} total, {big(p.active_with_embeddings)} active per token"),
        ("weights", ", ".join(f"{w.type} {data(w.bytes)}" for w in card.weights if w.bytes is not None)),
        ("KV cache", f"{data(card.kv_bytes(card.spec.context))} at {card.spec.context} tokens ({card.kv_type})"),
        ("thinking", card.reasoning.summary()),
    ]
    parts = {
        f"context {n}": {k.replace("_", " "): v for k, v in cost.flops_by_part().items() if k != "total"}
        for n, cost in costs.items()
    }
    drawn = bars(parts, {f"context {n}": flop(cost.flops()) for n, cost in costs.items()})
    whole = folded("the three lenses", preformatted(card_text(card, 100)))
    return titled(card.name, card.tag, pairs(rows), drawn, whole)


def stated_text(card: StatedCard, width: int | None = None) -> str:
    width = width or terminal_width()
    stated = card.entry.inference
    words = {"never": "standard: it never thinks", "always": "thinking, always"}
    thinking = words.get(stated.kind, stated.kind) + (f" ({', '.join(stated.levels)})" if stated.levels else "")
    thinking += f", {stated.default} unless asked for otherwise" if stated.default else ""
    thinking += f"; {stated.note}" if stated.note else ""
    served = f", served by {card.entry.vendor}" if card.entry.hosted else ""
    lines = heading(card.name, card.tag, width)
    lines += paragraph("what it is", card.entry.description + served, width)
    if not card.entry.hosted:
        lines += paragraph("numbers", "unknown here: the catalog knows only the name and the kind of this model", width)
    lines += paragraph("backbone", card.entry.backbone, width)
    lines += paragraph("inference", thinking, width)
    lines += paragraph("look up next", card.look_up, width)
    return "\n".join(line.rstrip() for line in lines)


def _heading(card: Card, width: int) -> list[str]:
    spec = card.spec
    wiring = (
        f"{spec.family} · {len(spec.layers)} layers of width {spec.width} · {_heads(spec)} · "
        f"vocabulary {spec.vocab} · context {spec.context}"
    )
    lines = heading(card.name, card.tag, width)
    lines += paragraph("from", card.origin, width)
    lines += paragraph("wiring", wiring, width)
    lines += paragraph("attention", _masks(spec), width)
    for title, names in (
        ("unread", card.reading.unread),
        ("defaults", tuple(f"{k}={v}" for k, v in card.reading.defaults.items())),
        ("not counted", tuple(f"{k} {spaced(v)}" for k, v in card.reading.not_counted.items())),
    ):
        if names:
            lines += paragraph(title, ", ".join(names), width)
    return lines


# ------------------------------------------------------------------------------------------------ dense


def _dense(card: Card, width: int) -> list[str]:
    p, lens = card.parameters, card.dense
    active = p.active_with_embeddings
    count = f"{spaced(p.total)} total ({big(p.total)}), {spaced(active)} active per token ({big(active)}): "
    count += f"{100 * active / p.total:.1f} %"
    lines = ["dense lens", *paragraph("parameters", count, width)]
    if p.active != active:
        multiplied = f"{spaced(p.active)} of them for a token ({big(p.active)}): {100 * lens.ratio:.1f} % of all; of a "
        multiplied += "table that is only looked up, a token takes one row"
        lines += paragraph("multiplied", multiplied, width)
    for compared in card.published:
        lines += paragraph("published", compared.as_line(), width)
    lines += paragraph("per token", "operations by context length, with a multiply-add counted as two", width)
    parts = next(iter(lens.costs.values())).flops_by_part()
    shown = [name for name in parts if any(cost.flops_by_part()[name] for cost in lens.costs.values())]
    rows = [[name.replace("_", " "), *(flop(c.flops_by_part()[name]) for c in lens.costs.values())] for name in shown]
    rows.append([f"cache, {card.kv_type}", *(data(card.kv_bytes(n)) for n in lens.costs)])
    lines += table(["context", *(str(n) for n in lens.costs)], rows, width, indent=4)
    for term in lens.terms:
        text = f"{term.what} (layers {ranges(term.layers)}): {term.formula} = {flop(term.flops)}"
        lines += paragraph("feed-forward", text, width)
    if lens.beside_the_sum:
        lines += paragraph("", f"and {flop(lens.beside_the_sum)} outside this sum", width)
    kv = f"{data(card.kv_bytes(card.context) / card.context)} a token at context {card.context}, "
    kv += f"{data(card.kv_bytes(card.spec.context))} at {card.spec.context} ({card.kv_type})"
    if card.fixed_bytes:
        kv += f"; and {data(card.fixed_bytes)} a sequence, whatever its length (f32)"
    lines += paragraph("KV cache", kv, width)
    for weights in card.weights:
        size = "unknown" if weights.bytes is None else data(weights.bytes)
        label = "weights" if weights is card.weights[0] else ""
        lines += paragraph(label, f"{weights.type} {size}: {weights.meaning}", width)
    for a in card.adapters:
        text = (
            f"{a.name}: {spaced(a.parameters)} parameters ({big(a.parameters)}), {data(a.bytes)}; a call with it takes "
        )
        lines += paragraph("adapter", f"{text}{flop(a.flops)} more per token", width)
    for prop in lens.properties:
        lines += paragraph("property", f"{prop.name}: {prop.answer}; {prop.why}", width)
    return lines


# -------------------------------------------------------------------------------------------------- moe


def _moe(card: Card, width: int) -> list[str]:
    if card.moe is None:
        return ["MoE lens", *paragraph("", "no layer is routed: every stored weight is used", width)]
    lens, lines = card.moe, ["MoE lens"]
    for g in lens.groups:
        shared = f", a shared one of width {g.shared_width} always" if g.shared_width else ", none shared"
        often = f" on average, {g.chosen} at most" if g.identity_experts else ""
        text = f"{g.firing} of {g.experts} experts fire{often}{shared}; "
        text += f"{len(g.layers)} of {lens.layers} layers are routed "
        text += f"(layers {ranges(g.layers)}); one expert is {g.expert_width} wide, "
        text += f"{spaced(g.expert_parameters)} parameters"
        lines += paragraph("experts", text, width)
        lines += paragraph("router", g.rule, width)
    lines += paragraph("read", f"{100 * lens.share_read:.1f} % of the weights, for a single token", width)
    lines += _neighbours(card, lens, width)
    many = len(lens.groups) > 1
    rows = [
        [
            str(b.batch),
            " and ".join(f"{d:.1f} of {g.experts}" for d, g in zip(b.distinct, lens.groups, strict=True))
            if many
            else f"{b.distinct[0]:.1f} of {lens.groups[0].experts}",
            data(b.weight_bytes),
            data(b.weight_bytes_per_token),
        ]
        for b in lens.batches
    ]
    lines += paragraph("batches", "experts that fire in a layer and bf16 bytes read, if all are equally likely", width)
    return lines + table(["batch", "distinct", "read", "per token"], rows, width, indent=4)


def _neighbours(card: Card, lens: MoeLens, width: int) -> list[str]:
    rows = [["this model", big(card.parameters.total), data(lens.weight_bytes), flop(lens.flops)]]
    rows += [[f"dense, {n.what}", big(n.parameters), data(n.weight_bytes), flop(n.flops)] for n in lens.neighbours]
    lines = paragraph("beside", "the same wiring with dense feed-forwards (bf16, one token at context 1)", width)
    return lines + table(["", "parameters", "memory", "compute"], rows, width, indent=4)


# -------------------------------------------------------------------------------------------- reasoning


def _reasoning(card: Card, width: int) -> list[str]:
    lens, inference = card.reasoning, card.inference
    lines = ["reasoning lens", *paragraph("thinking", lens.summary(), width)]
    for line in lens.switches():
        lines += paragraph("setting", line, width)
    if inference.budget_variable:
        lines += paragraph("budget", f"{inference.budget_variable}=tokens", width)
    if inference.markers is not None:
        shown = f"{inference.markers.open!r} ... {inference.markers.close!r}"
        lines += paragraph("markers", shown, width)
    if inference.kind == "always" and inference.settings:
        opened = inference.settings[0].start == "opened"
        text = "opens the thinking" if opened else "lets the model open its thinking"
        lines += paragraph("prompt", text, width)
    if inference.kind not in ("never", "unknown"):
        cost = f"{THOUGHT} tokens of it are {flop(lens.thought_flops)} and {data(lens.thought_kv_bytes)} of cache"
        lines += paragraph("cost", f"{cost}; no weight changes", width)
    if inference.source != "no chat template" and inference.kind != "unknown":
        sure = "" if inference.certain else ", which does not say it for certain"
        lines += paragraph("known from", inference.source + sure, width)
    return lines


# ----------------------------------------------------------------------------------------------- wiring


def _heads(spec: ModelSpec) -> str:
    kinds: dict[str, None] = {}
    for layer in spec.layers:
        for mixer in layer.mixers:
            match mixer:
                case LatentAttention() as a:
                    kinds[f"{a.heads} heads on a latent of {a.kv_rank} + {a.rope_dim}"] = None
                case Attention() as a:
                    kinds[f"{a.heads} heads of {a.cache.key_dim} on {a.cache.kv_heads} key-value heads"] = None
                case ShortConvolution() as c:
                    kinds[f"convolutions over {c.taps} tokens"] = None
                case GatedRecurrence(rule=rule):
                    kinds[f"{rule.heads} recurrent matrices of {rule.key_dim} x {rule.value_dim}"] = None
    return " or ".join(kinds)


def _mask(mask: Mask) -> str:
    match mask:
        case Full():
            return "full"
        case Window(size):
            return f"window {size}"
        case Chunk(size):
            return f"chunks of {size}"


def _masks(spec: ModelSpec) -> str:
    """full on 8 layers, window 512 on 40"""
    counts: dict[str, int] = {}
    for layer in spec.layers:
        words = [_mask(m.mask) for m in layer.mixers if isinstance(m, Attention | LatentAttention)] or ["none"]
        counts[words[0]] = counts.get(words[0], 0) + 1
    return ", ".join(f"{word} on {count} layers" for word, count in counts.items())
