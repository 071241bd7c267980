// LangChain.js, by OpenAI's chat and by Anthropic's messages.
import assert from "node:assert";
import { ChatAnthropic } from "@langchain/anthropic";
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { z } from "zod";

const url = process.env.TRILENS_URL;
const models = {
  chat: new ChatOpenAI({ model: "tiny-dense", apiKey: "none", maxRetries: 0, configuration: { baseURL: `${url}/v1` } }),
  responses: new ChatOpenAI({
    model: "tiny-dense", apiKey: "none", maxRetries: 0, useResponsesApi: true, configuration: { baseURL: `${url}/v1` },
  }),
  anthropic: new ChatAnthropic({ model: "tiny-dense", apiKey: "none", maxRetries: 0, anthropicApiUrl: url, maxTokens: 2000 }),
};
const weather = tool(async ({ city }) => `rain in ${city}`, {
  name: "weather", description: "The weather in a city.", schema: z.object({ city: z.string() }),
});
const person = z.object({ name: z.string(), age: z.number().int() });

for (const [name, model] of Object.entries(models)) {
  const first = await model.invoke("[[say PONG]]");
  assert.equal(first.text, "PONG", name);
  let streamed = "";
  for await (const piece of await model.stream("[[say one two three]]")) streamed += piece.text;
  assert.equal(streamed, "one two three", name);
  const asked = [new HumanMessage('[[call weather {"city":"Rome"}]]')];
  const called = await model.bindTools([weather]).invoke(asked);
  const [call] = called.tool_calls;
  assert.deepEqual([call.name, call.args], ["weather", { city: "Rome" }], name);
  const result = new ToolMessage({ content: await weather.invoke(call.args), tool_call_id: call.id });
  const last = await model.bindTools([weather]).invoke([...asked, called, result]);
  assert.match(last.text, /rain in Rome/, name);
  for (const method of name === "anthropic" ? ["functionCalling"] : ["functionCalling", "jsonSchema"]) {
    const made = await model.withStructuredOutput(person, { method, name: "person" }).invoke(
      method === "functionCalling" ? '[[call person {"name":"Ada","age":36}]]' : '[[say {"name":"Ada","age":36}]]',
    );
    assert.deepEqual(made, { name: "Ada", age: 36 }, name);
  }
  const again = await model.invoke([new HumanMessage("[[say PONG]]"), first, new HumanMessage("[[recall]]")]);
  assert.equal(again.text, "Before this I said 1 times, last: PONG", name);
}
