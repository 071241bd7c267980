// The Vercel AI SDK, by OpenAI's two interfaces, by its package for servers like these, and by Anthropic's.
import assert from "node:assert";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const url = process.env.TRILENS_URL;
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
const models = {
  responses: openai.responses("tiny-dense"),
  chat: openai.chat("tiny-dense"),
  compatible: createOpenAICompatible({ name: "x", baseURL: `${url}/v1`, apiKey: "none", supportsStructuredOutputs: true })(
    "tiny-dense",
  ),
  anthropic: createAnthropic({ baseURL: `${url}/v1`, apiKey: "none" })("tiny-dense"),
};
const weather = tool({
  description: "The weather in a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `rain in ${city}`,
});
const person = z.object({ name: z.string(), age: z.number().int() });

for (const [name, model] of Object.entries(models)) {
  const first = await generateText({ model, prompt: "[[say PONG]]", maxRetries: 0 });
  assert.equal(first.text, "PONG", name);
  const stream = streamText({ model, prompt: "[[say one two three]]", maxRetries: 0 });
  let streamed = "";
  for await (const piece of stream.textStream) streamed += piece;
  assert.equal(streamed, "one two three", name);
  const tooled = await generateText({
    model, maxRetries: 0, tools: { weather }, stopWhen: stepCountIs(3), prompt: '[[call weather {"city":"Rome"}]]',
  });
  assert.match(tooled.text, /rain in Rome/, name);
  const made = await generateText({
    model, maxRetries: 0, output: Output.object({ schema: person }), prompt: '[[say {"name":"Ada","age":36}]]',
  });
  assert.deepEqual(made.output, { name: "Ada", age: 36 }, name);
  const history = [
    { role: "user", content: "[[say PONG]]" }, ...first.response.messages, { role: "user", content: "[[recall]]" },
  ];
  const again = await generateText({ model, maxRetries: 0, messages: history });
  assert.equal(again.text, "Before this I said 1 times, last: PONG", name);
}
