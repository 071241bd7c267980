"""LiteLLM, by OpenAI's chat and by Anthropic's messages."""

import json
import os

import litellm
from pydantic import BaseModel

URL = os.environ["TRILENS_URL"]
WAYS = (
    {"model": "openai/tiny-dense", "api_base": f"{URL}/v1"},
    {"model": "anthropic/tiny-dense", "api_base": URL, "max_tokens": 2000},
)
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Person(BaseModel):
    name: str
    age: int


for way in WAYS:
    options = {**way, "api_key": "none", "num_retries": 0}
    user = {"role": "user", "content": "[[say PONG]]"}
    first = litellm.completion(messages=[user], **options).choices[0].message
    assert first.content == "PONG", first
    chunks = litellm.completion(messages=[{"role": "user", "content": "[[say one two]]"}], stream=True, **options)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed == "one two", streamed
    asked = [{"role": "user", "content": '[[call weather {"city": "Rome"}]]'}]
    called = litellm.completion(messages=asked, tools=[TOOL], **options).choices[0].message
    [call] = called.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Rome"}), called
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain in Rome"}
    last = litellm.completion(messages=[*asked, called, result], tools=[TOOL], **options).choices[0].message
    assert "rain in Rome" in last.content, last
    said = [{"role": "user", "content": '[[say {"name":"Ada","age":36}]]'}]
    person = litellm.completion(messages=said, response_format=Person, **options).choices[0].message
    assert Person.model_validate_json(person.content) == Person(name="Ada", age=36), person
    again = litellm.completion(messages=[user, first, {"role": "user", "content": "[[recall]]"}], **options)
    assert again.choices[0].message.content == "Before this I said 1 times, last: PONG", again
