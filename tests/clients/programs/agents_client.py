"""openai-agents, by responses and by chat."""

import asyncio
import os

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from pydantic import BaseModel

set_tracing_disabled(True)
CLIENT = openai.AsyncOpenAI(base_url=f"{os.environ['TRILENS_URL']}/v1", api_key="none", max_retries=0)
MODELS = (
    OpenAIResponsesModel(model="tiny-dense", openai_client=CLIENT),
    OpenAIChatCompletionsModel(model="tiny-dense", openai_client=CLIENT),
)


class Person(BaseModel):
    name: str
    age: int


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


async def main() -> None:
    for model in MODELS:
        agent = Agent(name="a", instructions="Be brief.", model=model)
        first = await Runner.run(agent, "[[say PONG]]")
        assert first.final_output == "PONG", first
        stream = Runner.run_streamed(agent, "[[say one two three]]")
        kinds = [event.type async for event in stream.stream_events()]
        assert stream.final_output == "one two three" and "raw_response_event" in kinds
        again = await Runner.run(agent, [*first.to_input_list(), {"role": "user", "content": "[[recall]]"}])
        assert again.final_output == "Before this I said 1 times, last: PONG", again.final_output
        tooled = Agent(name="b", model=model, tools=[weather], model_settings=ModelSettings(parallel_tool_calls=False))
        done = await Runner.run(tooled, '[[call weather {"city": "Rome"}]]')
        assert "rain in Rome" in done.final_output, done
        typed = Agent(name="c", model=model, output_type=Person)
        made = await Runner.run(typed, '[[say {"name":"Ada","age":36}]]')
        assert made.final_output == Person(name="Ada", age=36), made
        both = Agent(name="d", model=model, output_type=Person, tools=[weather])
        made = await Runner.run(both, '[[say {"name":"Ada","age":36}]]')
        assert made.final_output == Person(name="Ada", age=36), made


asyncio.run(main())
