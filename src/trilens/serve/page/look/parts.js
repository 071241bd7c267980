// What the views of the inside share: their words, tokens that can be read, and what a look cost.
import { make } from "../dom.js";
import { bytes, flop, inLine, seconds, tokens } from "../units.js";
import { fill, language } from "../words/words.js";
import { EN } from "./en.js";
import { KO } from "./ko.js";

/** @param {string} key @param {Record<string, string | number>} values */
export const say = (key, values = {}) => fill((language === "ko" ? KO : EN)[key] ?? EN[key] ?? key, values);

/** A token's text with its spaces to be seen. @param {string} text */
export const shown = (text) => text.replace(/^bytes:/, "").replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";

/** What a look cost, in a line. @param {any} cost */
export const costOf = (cost) => say("cost", {
  line: inLine([tokens(cost.tokens), flop(cost.flops), say("read", { bytes: bytes(cost.weight_bytes + cost.kv_bytes + cost.fixed_bytes) }), seconds(cost.seconds)]),
});

/** A part of the panel: a title, a sentence and where its code is. @param {string} key @param {Node} where @param {Node[]} content */
export const part = (key, where, ...content) => make("section", { class: "inside-part" }, make("h3", {}, say(key)), make("p", { class: "words" }, say(`${key}_words`), " ", where), ...content);
