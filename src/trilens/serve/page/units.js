// Numbers for people, as the receipts write them.
import { t } from "./words/words.js";

/** @param {number} n @param {[string, number][]} units @param {string} plain */
const scaled = (n, units, plain) => {
  for (const [unit, size] of units) if (n >= size) return `${(n / size).toFixed(n / size < 10 ? 2 : 1)} ${unit}`;
  return `${n.toFixed(0)}${plain}`;
};

export const bytes = (/** @type {number} */ n) => scaled(n, [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["KB", 1e3]], " B");
export const flop = (/** @type {number} */ n) => scaled(n, [["PFLOP", 1e15], ["TFLOP", 1e12], ["GFLOP", 1e9], ["MFLOP", 1e6], ["KFLOP", 1e3]], " FLOP");
export const count = (/** @type {number} */ n) => n.toLocaleString("en");
/** @param {number} n */
export const tokens = (n) => (n === 1 ? t("one_token") : t("tokens", { n: count(n) }));
export const big = (/** @type {number} */ n) => scaled(n, [["T", 1e12], ["B", 1e9], ["M", 1e6], ["K", 1e3]], "").replace(" ", "");
export const seconds = (/** @type {number} */ n) => (n >= 1 ? `${n.toFixed(2)} s` : n >= 1e-3 ? `${(n * 1e3).toFixed(1)} ms` : `${(n * 1e6).toFixed(0)} µs`);
/** A share that may be next to nothing. @param {number} n */
export const share = (n) => (n >= 0.0005 ? `${(100 * n).toFixed(1)} %` : "< 0.1 %");
/** Parts of a line, which breaks only between them. @param {string[]} parts */
export const inLine = (parts) => parts.map((part) => part.replaceAll(" ", "\u00a0")).join(" · ");
export const percent = (/** @type {number} */ n) => `${(100 * n).toFixed(n < 0.1 ? 1 : 0)} %`;
