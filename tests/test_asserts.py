"""`assert` is for what only we can break. Nothing that a file, a request or an option says may meet one: it is gone
under `python -O`, and its error is none of ours.

Every assert of the package is listed here with the reason why nobody but us can break it. A new one has to be reviewed
and added; one that a file or a caller can reach becomes an error of `errors.py`.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "trilens"

# file -> (number of asserts, why they hold)
REVIEWED = {
    "model.py": (1, "files that were loaded have a spec, so their card is a whole one"),
    "checkpoints/changes.py": (6, "the rows of names name these changes for families with such layers only"),
    "decoder/attention.py": (2, "decoder_weights makes these weights from the same fields of the same spec"),
    "decoder/ffn.py": (
        2,
        "decoder_weights makes a gate for each feed-forward with a glu, and the numbers of a learned curve",
    ),
    "decoder/weights.py": (1, "called for a model with a block that predicts"),
    "decoder/look.py": (1, "trials/inside.py has checked that the layer has attention"),
    "executors/accountant.py": (
        20,
        "widths between the decoder and its own tree of weights; spec/bounds.py has checked the spec's numbers",
    ),
    "executors/native/executor.py": (1, "the scheduler steps a sequence with the executor that made it"),
    "executors/native/prediction.py": (1, "the engine keeps the rows of every step that it takes for a block"),
    "executors/native/record.py": (
        2,
        "without_choice has taken the choice out of the spec; a block is recorded where load has found one",
    ),
    "executors/torch.py": (
        4,
        "the scheduler steps a sequence with the executor that made it; decoder_weights, as above; rows come with the"
        " tokens of a block only, and it is asked only where there is one",
    ),
    "generate/answer.py": (3, "a budget is made only for a thinking that can be closed"),
    "generate/scheduler.py": (1, "the caller has looked for scores"),
    "lenses/cards/card.py": (1, "only a catalog entry makes a card without files"),
    "lenses/costs/forecast.py": (1, "the caller has looked for the device"),
    "lenses/cards/held.py": (3, "called only for sources with a reading"),
    "lenses/memory/llama_graph.py": (1, "Layer refuses to be made without a mixer and a feed-forward"),
    "lenses/memory/own_memory.py": (1, "a feed-forward's weights, made from the same spec"),
    "lenses/plans/plan.py": (1, "called only for sources with a reading"),
    "lenses/plans/plan_speed.py": (3, "called only for sources with a reading"),
    "lenses/plans/plot.py": (1, "only points with a forecast are drawn"),
    "lenses/costs/predict.py": (3, "instructions that attend have a mask"),
    "lenses/cards/published.py": (1, "the catalog is ours and checked by its own test"),
    "lenses/cards/source.py": (1, "called only for entries with a config"),
    "lenses/machines/target.py": (1, "a machine that is not this one has a device"),
    "lenses/plans/which.py": (2, "this machine has been refused"),
    "lenses/plans/which_text.py": (1, "this machine has been refused"),
    "serve/local_loop.py": (1, "a call that is stepped was submitted"),
    "serve/nodes.py": (1, "opened before it is waited for"),
    "serve/registry.py": (1, "a model that is put away was taken out"),
    "text/events.py": (1, "an answer that did not fail has an end"),
    "text/tool_reader.py": (1, "made only for forms with an envelope"),
    "text/thoughts.py": (2, "the state machine enters these states with markers only"),
    "serve/streams.py": (1, "a coroutine that runs has a task"),
    "trials/routing.py": (1, "the events of a call end with its generation"),
}


def test_every_assert_is_one_that_only_we_can_break() -> None:
    found: Counter[str] = Counter()
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        if asserts := sum(isinstance(node, ast.Assert) for node in ast.walk(tree)):
            found[path.relative_to(PACKAGE).as_posix()] = asserts
    reviewed = {file: count for file, (count, _) in REVIEWED.items()}
    new = {file: count for file, count in found.items() if count > reviewed.get(file, 0)}
    gone = {file: count for file, count in reviewed.items() if count > found[file]}
    assert not new, f"review these, then list them with a reason: {new}"
    assert not gone, f"the list is longer than the code: {gone}"


def test_readers_of_files_have_none() -> None:
    """Where a file's numbers are still unchecked, there is no assert at all."""
    listed = [file for file in REVIEWED if file.startswith(("spec/", "files.py"))]
    listed += [file for file in REVIEWED if file.startswith("checkpoints/") and file != "checkpoints/changes.py"]
    assert not listed
