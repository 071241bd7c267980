"""Many questions in an event loop. They share the model's steps; the loop is free meanwhile."""

from __future__ import annotations

import asyncio

import trilens


async def piece_by_piece(model: trilens.Model) -> None:
    """Print an answer as it comes."""
    async with model.stream("What is 47 times 86?", thinking=True, temperature=0) as stream:
        async for event in stream:
            match event:
                case trilens.ThinkingEvent():
                    pass
                case trilens.TextEvent(text):
                    print(text, end="", flush=True)
                case trilens.EndEvent(receipt):
                    print(f"  ({receipt.tokens.thinking} tokens of thinking)")
                case trilens.ToolCallEvent():
                    pass


async def side_by_side(model: trilens.Model) -> None:
    """Wait for whole answers together."""

    async def ask(question: str) -> trilens.Answer:
        return await model.stream(question, temperature=0)

    for answer in await asyncio.gather(*(ask(f"What is {n} plus 30?") for n in range(10, 14))):
        print(answer, "with", answer.receipt.batch, "in a step")


async def in_time(model: trilens.Model) -> None:
    """A call that takes too long is cancelled, and stops computing."""
    try:
        async with asyncio.timeout(0.001):
            await model.stream("What is 123 times 456?", thinking=True)
    except TimeoutError:
        print("it took too long")


async def main() -> None:
    with trilens.load("tiny-dense", offline=True) as model:  # with an option of models that run here, it is a `Model`
        await piece_by_piece(model)
        await side_by_side(model)
        await in_time(model)


if __name__ == "__main__":
    asyncio.run(main())
