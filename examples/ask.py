"""One question, at once and with thinking, and what each cost."""

from __future__ import annotations

import trilens


def main() -> None:
    question = "What is 47 times 86?"
    with trilens.load("tiny-dense") as model:
        print("the prompt has", model.count_tokens(question), "tokens")
        for thinking in (False, True):
            answer = trilens.call_model(model, question, extended_thinking=thinking, temperature=0)
            tokens = answer.receipt.tokens
            print(f"thinking {thinking}: {answer} ({tokens.thinking} tokens of thinking, {tokens.answer} of answer)")
        print(answer.receipt.as_text())


if __name__ == "__main__":
    main()
