// The server, and nothing else: models, cards, questions, and one streamed chat completion.
import { t } from "./words/words.js";

const KEPT = "trilens-key";

export class NeedsKey extends Error {}
/** `short` is for the place where the answer should be; the message says what to do. */
export class ServerGone extends Error {
  /** @param {string} message @param {string} short */
  constructor(message, short) {
    super(message);
    this.short = short;
  }
}

/** @param {string} key */
export const setKey = (key) => sessionStorage.setItem(KEPT, key);

function headers() {
  const key = sessionStorage.getItem(KEPT);
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

/** @param {Response} response */
async function checked(response) {
  if (response.ok) return response;
  if (response.status === 401) throw new NeedsKey(t("needs_key"));
  let message = t("answered", { status: response.status });
  try {
    message = (await response.json()).error.message;
  } catch {}
  const wait = response.headers.get("Retry-After");
  throw new Error(response.status === 429 && wait ? `${message} (${t("after_seconds", { seconds: wait })})` : message);
}

/** @param {string} path @param {RequestInit} options */
async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new ServerGone(t("gone"), t("gone_short"));
  }
}

/** @param {string} path @param {any} [body] */
async function json(path, body) {
  const post = { method: "POST", body: JSON.stringify(body) };
  return (await checked(await reach(path, { headers: headers(), ...(body === undefined ? {} : post) }))).json();
}

/** @returns {Promise<any[]>} */
export const models = async () => (await json("v1/models")).data;
/** @param {string} id */
export const answerNow = (id) => json("v1/trilens/answer_now", { id });
/** @param {any} config a config.json's content */
export const cardOf = (config) => json("v1/trilens/card", { config });
/** @param {number} count @returns {Promise<any[]>} */
export const questions = async (count) => (await json(`v1/trilens/questions?count=${count}`)).questions;

/** @param {any} asked a text, a layer and a head */
export const attentionOf = (asked) => json("v1/trilens/attention", asked);
/** @param {any} asked a text and the place of a token in it */
export const logitLens = (asked) => json("v1/trilens/logit_lens", asked);

/**
 * Chunks of one answer as they come. Throws where the stream breaks before its end.
 * @param {any} body @param {AbortSignal} [signal] @returns {AsyncGenerator<any>}
 */
export async function* chat(body, signal) {
  const request = { method: "POST", headers: headers(), signal, body: JSON.stringify({ ...body, stream: true }) };
  const response = await checked(await reach("v1/chat/completions", request));
  const stream = /** @type {ReadableStream<Uint8Array>} */ (response.body);
  const reader = stream.pipeThrough(/** @type {any} */ (new TextDecoderStream())).getReader();
  let held = "";
  try {
    for (;;) {
      /** @type {any} */
      let part;
      try {
        part = await reader.read();
      } catch (problem) {
        if (problem.name === "AbortError") throw problem;
        throw new ServerGone(t("broke"), t("broke_short"));
      }
      if (part.done) throw new Error(t("ended_early"));
      held += part.value;
      const events = held.split("\n\n");
      held = events.pop() ?? "";
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

/** A text's tokens, each as text. @param {string} model @param {string} prompt @returns {Promise<string[]>} */
export const tokenize = async (model, prompt) => (await json("tokenize", { model, prompt, add_special_tokens: false, return_token_strs: true })).token_strs;
