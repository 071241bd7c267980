"""The commands of the ledger: what was asked, and what it cost."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from trilens.cli.streams import json_text
from trilens.cli.terminal import say
from trilens.errors import UsageError

if TYPE_CHECKING:
    from trilens.ledger import Entry, Total

SINCE = click.option("--since", metavar="TIME", help="Only calls since then: today, monday, 3d, 12h, or a date.")


@click.command()
@click.option("--on", "switch", flag_value="receipts", help="Start to keep the receipt of every call.")
@click.option("--prompts", "switch", flag_value="prompts", help="Start to keep prompts and answers too.")
@click.option("--off", "switch", flag_value="off", help="Stop. Calls already kept remain.")
@SINCE
@click.option("--model", help="Only calls of this model.")
@click.option(
    "-n", "--number", type=click.IntRange(1), default=20, show_default=True, help="Maximum number of calls to show."
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON per call, with its receipt.")
def log(switch: Any, since: str | None, model: str | None, number: int, as_json: bool) -> None:
    """List the last calls and their costs. Nothing is kept until you run `trilens log --on`."""
    from trilens import ledger

    if switch is not None:
        if since is not None or model is not None:
            raise UsageError("--on, --prompts and --off take no other option")
        ledger.keep(switch)
        kept = {"off": "no more calls are kept", "receipts": "the receipt of every call is kept"}
        say(f"{kept.get(switch, 'receipts, prompts and answers of every call are kept')} in {ledger.path()}")
        return
    found = ledger.entries(since, model, number)
    if not found and ledger.kept() == "off":
        say("no calls are kept; start with: trilens log --on")
    for entry in found if as_json else ():
        print(json_text(asdict(entry)))
    if found and not as_json:
        heads = ("when", "model", "where", "prompt", "thinking", "answer", "seconds", "Wh", "US$")
        print(_table(heads, map(_row, found)))


@click.command()
@click.option(
    "--by", type=click.Choice(["model", "day", "where"]), default="model", show_default=True, help="Group by this."
)
@SINCE
@click.option("--model", help="Only calls of this model.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def cost(by: Any, since: str | None, model: str | None, as_json: bool) -> None:
    """Add up the calls in the ledger: tokens, seconds, watt-hours and money."""
    from trilens import ledger

    found = ledger.totals(by, since, model)
    if as_json:
        print(json_text([asdict(total) for total in found]))
        return
    if not found:
        say(
            "no calls are kept"
            + (" for that time or model" if ledger.kept() != "off" else "; start with: trilens log --on")
        )
        return
    heads = (by, "calls", "prompt", "thinking", "answer", "seconds", "Wh", "US$")
    print(_table(heads, map(_sum, found)))


def _row(entry: Entry) -> tuple[str, ...]:
    counts = (entry.prompt_tokens, entry.thinking_tokens, entry.answer_tokens)
    return (
        datetime.fromtimestamp(entry.at).strftime("%Y-%m-%d %H:%M:%S"),
        entry.model,
        entry.place,
        *("?" if count is None else str(count) for count in counts),
        "?" if entry.seconds is None else f"{entry.seconds:.2f}",
        "" if entry.watt_hours is None else f"{entry.watt_hours:.4f}",
        "" if entry.dollars is None else f"{entry.dollars:.6f}",
    )


def _sum(total: Total) -> tuple[str, ...]:
    """A sum over only some of the calls, with their number."""

    def of(value: float | None, count: int, digits: int) -> str:
        if value is None:
            return ""
        return f"{value:.{digits}f}" + (f" ({count} of {total.calls})" if count < total.calls else "")

    return (
        total.of,
        str(total.calls),
        str(total.prompt_tokens),
        str(total.thinking_tokens),
        str(total.answer_tokens),
        f"{total.seconds:.1f}",
        of(total.watt_hours, total.measured, 4),
        of(total.dollars, total.priced, 6),
    )


def _table(heads: tuple[str, ...], rows: Any) -> str:
    from trilens.cli.terminal import UNSAFE

    lines = [heads, *(tuple(cell.translate(UNSAFE) for cell in row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


COMMANDS = (log, cost)
