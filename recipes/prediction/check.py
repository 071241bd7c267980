"""How often the block's drafts are right, each drafted token asked for whether it pays or not.

python recipes/prediction/check.py build/tiny-hybrid
"""

from __future__ import annotations

import click

from trilens import load
from trilens.generate.sampling import Speculates
from trilens.trials.questions import questions

KINDS = (("sum", "2x2"), ("difference", "2x2"), ("comparison", None), ("letters", None), ("talk", None))
EACH = 20


@click.command()
@click.argument("folder")
def main(folder: str) -> None:
    model = load(folder, prediction_block=True)
    always: Speculates = "always"
    model._scheduler.speculates = always
    for temperature in (0.0, 0.7, 1.0, 1.5):
        predicted = right = written = 0
        for kind, digits in KINDS:
            stream = questions(kind, 5000, digits)
            for seed in range(EACH):
                receipt = model.generate(next(stream).text, temperature=temperature, seed=seed, max_tokens=80).receipt
                predicted += receipt.drafts.predicted
                right += receipt.drafts.predicted_accepted
                written += receipt.tokens.completion
        share = f"{right / predicted:.0%}"
        print(
            f"temperature {temperature}: {right} of {predicted} predicted tokens were right ({share}), {written} tokens"
        )


if __name__ == "__main__":
    main()
