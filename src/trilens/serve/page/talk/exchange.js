// Conversations as a file, and back. A file comes from outside: every value in it is checked, and what has another type is
// refused with its place.
import { t } from "../words/words.js";

/** @typedef {import("./tree.js").Conversation} Conversation */

const FORMAT = "trilens-conversations";
const [MOST_TALKS, MOST_TURNS] = [10_000, 20_000];

/** @param {Conversation[]} talks */
export const exported = (talks) => JSON.stringify({ format: FORMAT, version: 1, conversations: talks }, null, 1);

/** @param {string} text @returns {Conversation[]} Throws an Error that says what is wrong. */
export function imported(text) {
  /** @type {any} */
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error(t("import_not_json"));
  }
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) throw new Error(t("import_format", { format: FORMAT }));
  if (file.conversations.length > MOST_TALKS) throw new Error(t("import_place", { place: "conversations" }));
  return file.conversations.map((/** @type {any} */ talk, /** @type {number} */ i) => conversation(talk, `conversations[${i}]`));
}

/** @param {boolean} good @param {string} place */
function must(good, place) {
  if (!good) throw new Error(t("import_place", { place }));
}

const isText = (/** @type {any} */ value) => typeof value === "string";
const isNumber = (/** @type {any} */ value) => Number.isFinite(value);
const isObject = (/** @type {any} */ value) => value !== null && typeof value === "object" && !Array.isArray(value);
const absentOr = (/** @type {(v: any) => boolean} */ rule) => (/** @type {any} */ value) => value == null || rule(value);
const listOf = (/** @type {(v: any) => boolean} */ rule) => (/** @type {any} */ value) => Array.isArray(value) && value.every(rule);
const isCall = (/** @type {any} */ call) => isObject(call) && isText(call.id) && isText(call.name) && isText(call.arguments);
const isFile = (/** @type {any} */ file) => isObject(file) && isText(file.name) && isText(file.text);

/** @type {Record<string, (value: any) => boolean>} */
const TURN = {
  id: Number.isInteger,
  parent: absentOr(Number.isInteger),
  role: (value) => ["user", "assistant", "tool"].includes(value),
  content: isText,
  files: absentOr(listOf(isFile)),
  thinking: absentOr(isText),
  calls: absentOr(listOf(isCall)),
  call: absentOr(isCall),
  model: absentOr(isText),
  receipt: absentOr(isReceipt),
  receiptText: absentOr(isText),
  finish: absentOr(isText),
  stopped: absentOr((value) => typeof value === "boolean"),
};

/** @type {Record<string, (value: any) => boolean>} */
const SETTINGS = {
  system: absentOr(isText),
  ...Object.fromEntries(["temperature", "top_p", "top_k", "max_tokens", "seed"].map((name) => [name, absentOr(isNumber)])),
  tools: absentOr(listOf(isObject)),
  tool_choice: absentOr(isText),
};

/** The parts of a receipt that the page reads. @param {any} receipt */
function isReceipt(receipt) {
  return isObject(receipt) && isObject(receipt.tokens) && Object.values(receipt.tokens).every(absentOr(isNumber)) && isObject(receipt.thinking)
    && absentOr(isNumber)(receipt.flops) && isNumber(receipt.seconds) && absentOr(isObject)(receipt.energy) && absentOr(isNumber)(receipt.energy?.joules)
    && absentOr((work) => isObject(work) && ["prefill", "decode"].every((part) => isObject(work[part]) && isNumber(work[part].seconds)))(receipt.work)
    && absentOr(isNumber)(receipt.tokens_per_second) && absentOr(isNumber)(receipt.work?.decode.tokens_per_second);
}

/** Only known fields, each of its type. @param {any} given @param {Record<string, (v: any) => boolean>} rules @param {string} place */
function part(given, rules, place) {
  must(isObject(given), place);
  /** @type {any} */
  const made = {};
  for (const [name, rule] of Object.entries(rules)) {
    must(rule(given[name]), `${place}.${name}`);
    if (given[name] != null || name === "parent") made[name] = given[name] ?? null;
  }
  return made;
}

/** @param {any} given @param {string} place @returns {Conversation} */
function conversation(given, place) {
  const rules = { id: isText, title: isText, created: isNumber, changed: isNumber, leaf: absentOr(Number.isInteger) };
  const made = part(given, rules, place);
  must(Array.isArray(given.turns) && given.turns.length <= MOST_TURNS, `${place}.turns`);
  made.turns = given.turns.map((/** @type {any} */ turn, /** @type {number} */ i) => part(turn, TURN, `${place}.turns[${i}]`));
  made.settings = part(given.settings ?? {}, SETTINGS, `${place}.settings`);
  made.leaf ??= null;
  const seen = new Set();
  made.turns.forEach((/** @type {any} */ turn, /** @type {number} */ i) => {
    // a parent stands before its children, so no path goes round in a circle
    must(!seen.has(turn.id) && (turn.parent === null || seen.has(turn.parent)), `${place}.turns[${i}].parent`);
    seen.add(turn.id);
  });
  must(made.leaf === null || seen.has(made.leaf), `${place}.leaf`);
  return made;
}
