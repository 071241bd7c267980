// A conversation is a tree of turns: editing a question or asking for another answer begins a branch, and none is lost.
// The path from the first turn to `leaf` is what is shown and sent.

/**
 * @typedef {{id: string, name: string, arguments: string}} ToolCall
 * @typedef {{name: string, text: string}} TextFile
 * @typedef {{id: number, parent: number | null, role: "user" | "assistant" | "tool", content: string, files?: TextFile[],
 *   thinking?: string, calls?: ToolCall[], call?: ToolCall, model?: string, receipt?: any, receiptText?: string, finish?: string,
 *   stopped?: boolean}} Turn `call`: the call that a tool's turn answers
 * @typedef {{system?: string, temperature?: number, top_p?: number, top_k?: number, max_tokens?: number, seed?: number,
 *   tools?: any[], tool_choice?: string}} Settings
 * @typedef {{id: string, title: string, created: number, changed: number, leaf: number | null, turns: Turn[],
 *   settings: Settings}} Conversation
 */

const TITLE = 60; // characters

/** @param {Settings} settings @returns {Conversation} */
export function newConversation(settings) {
  const now = Date.now();
  return { id: crypto.randomUUID?.() ?? `${now}-${Math.random()}`, title: "", created: now, changed: now, leaf: null, turns: [], settings: { ...settings } };
}

/**
 * Add a turn behind `parent`; it becomes the leaf.
 * @param {Conversation} talk @param {number | null} parent @param {Omit<Turn, "id" | "parent">} turn @returns {Turn}
 */
export function addTurn(talk, parent, turn) {
  const made = { ...turn, id: talk.turns.reduce((most, one) => Math.max(most, one.id), 0) + 1, parent };
  talk.turns.push(made);
  talk.leaf = made.id;
  talk.changed = Date.now();
  if (!talk.title && turn.role === "user") talk.title = titleOf(turn.content);
  return made;
}

/** The turns from the first to one of them, or to the leaf. @param {Conversation} talk @param {number | null} leaf */
export function path(talk, leaf = talk.leaf) {
  const byId = new Map(talk.turns.map((turn) => [turn.id, turn]));
  const found = [];
  for (let turn = leaf == null ? undefined : byId.get(leaf); turn; turn = turn.parent == null ? undefined : byId.get(turn.parent)) found.push(turn);
  return found.reverse();
}

/** The turns at the same place, this one among them. @param {Conversation} talk @param {Turn} turn */
export const siblings = (talk, turn) => talk.turns.filter((one) => one.parent === turn.parent && one.role === turn.role);

/** Show the newest branch through a turn. @param {Conversation} talk @param {Turn} turn */
export function follow(talk, turn) {
  let last = turn;
  const child = () => talk.turns.filter((one) => one.parent === last.id).at(-1);
  for (let next = child(); next; next = child()) last = next;
  talk.leaf = last.id;
}

/**
 * What the server is sent: the path to a turn, that one included, without questions that got an empty answer.
 * @param {Conversation} talk @param {number | null} leaf
 */
export function messages(talk, leaf = talk.leaf) {
  const system = talk.settings.system?.trim() ? [{ role: "system", content: talk.settings.system }] : [];
  /** @type {Turn[]} */
  const sent = [];
  for (const turn of path(talk, leaf)) {
    if (turn.role === "assistant" && !turn.content && !turn.thinking && !turn.calls?.length) sent.pop();
    else sent.push(turn);
  }
  return [...system, ...sent.map(message)];
}

/** @param {Turn} turn */
function message(turn) {
  if (turn.role === "user") return { role: "user", content: withFiles(turn) };
  if (turn.role === "tool") return { role: "tool", tool_call_id: turn.call?.id, name: turn.call?.name, content: turn.content };
  const calls = turn.calls?.map(({ id, name, arguments: given }) => ({ id, type: "function", function: { name, arguments: given } }));
  return {
    role: "assistant",
    content: turn.content || (calls?.length ? null : ""),
    ...(turn.thinking ? { reasoning_content: turn.thinking } : {}),
    ...(calls?.length ? { tool_calls: calls } : {}),
  };
}

/** @param {Turn} turn */
function withFiles(turn) {
  const files = (turn.files ?? []).map(({ name, text }) => `${name}:\n\n${text}`);
  return [...files, turn.content].join("\n\n");
}

/** @param {string} text */
export function titleOf(text) {
  const line = text.trim().split("\n")[0];
  return [...line].length <= TITLE ? line : `${[...line].slice(0, TITLE - 1).join("")}…`;
}
