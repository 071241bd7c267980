"""pydantic-ai, by both interfaces of OpenAI."""

import asyncio
import os

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

URL = os.environ["TRILENS_URL"]
OPENAI = OpenAIProvider(base_url=f"{URL}/v1", api_key="none")
MODELS = (
    OpenAIChatModel("tiny-dense", provider=OPENAI),
    OpenAIResponsesModel("tiny-dense", provider=OPENAI),
)


class Person(BaseModel):
    name: str
    age: int


def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


async def streamed(agent: Agent) -> str:
    async with agent.run_stream("[[say one two three]]") as stream:
        return await stream.get_output()


async def main() -> None:
    for model in MODELS:
        agent = Agent(model, instructions="Be brief.")
        first = await agent.run("[[say PONG]]")
        assert first.output == "PONG", first
        assert await streamed(agent) == "one two three"
        again = await agent.run("[[recall]]", message_history=first.all_messages())
        assert again.output == "Before this I said 1 times, last: PONG", again
        tooled = await Agent(model, tools=[weather]).run('[[call weather {"city": "Rome"}]]')
        assert "rain in Rome" in tooled.output, tooled
        call = '[[call final_result {"name":"Ada","age":36}]]'
        made = await Agent(model, output_type=ToolOutput(Person)).run(call)
        assert made.output == Person(name="Ada", age=36), made
        made = await Agent(model, output_type=NativeOutput(Person)).run('[[say {"name":"Ada","age":36}]]')
        assert made.output == Person(name="Ada", age=36), made
        both = Agent(model, tools=[weather], output_type=NativeOutput(Person))
        asked = await both.run('[[say {"name":"Ada","age":36}]]')
        assert asked.output == Person(name="Ada", age=36), asked


asyncio.run(main())
