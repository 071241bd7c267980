"""instructor, in each of its ways to ask for a structure."""

import os

import instructor
import openai
from pydantic import BaseModel

CLIENT = openai.OpenAI(base_url=f"{os.environ['TRILENS_URL']}/v1", api_key="none", max_retries=0)
ADA = '{"name":"Ada","age":36}'


class Person(BaseModel):
    name: str
    age: int


for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA, instructor.Mode.MD_JSON):
    client = instructor.from_openai(CLIENT, mode=mode)
    said = f"[[say ```json\n{ADA}\n```]]" if mode is instructor.Mode.MD_JSON else f"[[say {ADA}]]"
    options = {"model": "tiny-dense", "max_retries": 0}
    user = {"role": "user", "content": said}
    person, raw = client.chat.completions.create_with_completion(messages=[user], response_model=Person, **options)
    assert (person.name, person.age) == ("Ada", 36), (mode, person)
    again = client.chat.completions.create(
        messages=[user, {"role": "assistant", "content": ADA}, user], response_model=Person, **options
    )
    assert again.age == 36
    if mode in (instructor.Mode.TOOLS, instructor.Mode.JSON):
        parts = list(client.chat.completions.create_partial(messages=[user], response_model=Person, **options))
        assert parts[-1].age == 36, parts

plain = instructor.from_openai(CLIENT).chat.completions.create(
    model="tiny-dense", messages=[{"role": "user", "content": "[[say PONG]]"}], response_model=None
)
assert plain.choices[0].message.content == "PONG"
