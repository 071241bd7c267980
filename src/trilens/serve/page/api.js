// The server, and nothing else: models, and one streamed chat completion.
const KEPT = "trilens-key";

export class NeedsKey extends Error {}

export const setKey = (key) => sessionStorage.setItem(KEPT, key);

function headers() {
  const key = sessionStorage.getItem(KEPT);
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function checked(response) {
  if (response.ok) return response;
  if (response.status === 401) throw new NeedsKey();
  let message = `the server answered ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch {}
  const wait = response.headers.get("Retry-After");
  throw new Error(response.status === 429 && wait ? `${message} (after ${wait} s)` : message);
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Error("the server cannot be reached");
  }
}

export async function models() {
  return (await (await checked(await reach("v1/models", { headers: headers() }))).json()).data;
}

export async function answerNow(id) {
  await reach("v1/trilens/answer_now", { method: "POST", headers: headers(), body: JSON.stringify({ id }) });
}

/** Chunks of one answer as they come. Throws where the stream breaks before its end. */
export async function* chat(body, signal) {
  const request = { method: "POST", headers: headers(), signal, body: JSON.stringify({ ...body, stream: true }) };
  const response = await checked(await reach("v1/chat/completions", request));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      let part;
      try {
        part = await reader.read();
      } catch (problem) {
        if (problem.name === "AbortError") throw problem;
        throw new Error("the connection broke");
      }
      if (part.done) throw new Error("the connection ended before the answer did");
      held += part.value;
      const events = held.split("\n\n");
      held = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ")) continue;
        const data = event.slice(6);
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Error(chunk.error.message);
        yield chunk;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
