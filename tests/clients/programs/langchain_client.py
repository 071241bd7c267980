"""LangChain's packages for OpenAI (both of its interfaces) and for Anthropic."""

import os
import sys

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

URL = os.environ["TRILENS_URL"]
MODELS = {
    "chat": lambda: ChatOpenAI(model="tiny-dense", base_url=f"{URL}/v1", api_key="none", max_retries=0),
    "responses": lambda: ChatOpenAI(
        model="tiny-dense", base_url=f"{URL}/v1", api_key="none", max_retries=0, use_responses_api=True
    ),
    "anthropic": lambda: ChatAnthropic(
        model="tiny-dense", base_url=URL, api_key="none", max_retries=0, max_tokens=2000
    ),
}


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


def text(message: object) -> str:
    content = message.content
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


for name, make in MODELS.items():
    model = make()
    first = model.invoke("[[say PONG]]")
    assert text(first) == "PONG", first
    streamed = "".join(text(chunk) for chunk in model.stream("[[say one two three]]"))
    assert streamed == "one two three", streamed
    asked = [HumanMessage('[[call weather {"city": "Rome"}]]')]
    called = model.bind_tools([weather]).invoke(asked)
    [call] = called.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Rome"}), called
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    last = model.bind_tools([weather]).invoke([*asked, called, result])
    assert "rain in Rome" in text(last), last
    methods = ["function_calling", "json_schema"] if name != "anthropic" else ["json_schema"]
    for method in methods:
        asked_for = '[[say {"name":"Ada","age":36}]]'
        person = model.with_structured_output(Person, method=method).invoke(asked_for)
        assert (person.name, person.age) == ("Ada", 36), person
    again = model.invoke([HumanMessage("[[say PONG]]"), first, HumanMessage("[[recall]]")])
    assert text(again) == "Before this I said 1 times, last: PONG", again

assert OpenAI(model="tiny-dense", base_url=f"{URL}/v1", api_key="none").invoke("[[say x]]")
print("langchain: chat stream tools structured second", file=sys.stderr)
