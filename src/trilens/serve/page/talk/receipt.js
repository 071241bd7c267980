// A receipt in one line, and what a reader should know of it.
import { count, flop, inLine, seconds } from "../units.js";
import { t } from "../words/words.js";

/** Seconds of computing; of an engine, which does not say, of the whole call. @param {any} receipt @returns {number} */
export const computing = ({ work, seconds: all }) => (work ? work.prefill.seconds + work.decode.seconds : all);

/** An engine's receipt has no work, and not every count. @param {any} receipt */
export function receiptLine(receipt) {
  const { tokens, work } = receipt;
  const speed = work ? work.decode.tokens_per_second : receipt.tokens_per_second;
  const parts = [t("in_out", { in: count(tokens.prompt ?? 0), out: count(tokens.completion ?? 0) })];
  if (work) parts.push(flop(receipt.flops));
  parts.push(seconds(computing(receipt)));
  if (speed) parts.push(t("speed", { n: speed >= 100 ? count(Math.round(speed)) : speed.toFixed(1) }));
  return inLine(parts);
}

/** @param {any} receipt @param {string} finish @returns {string[]} */
export function receiptNotes(receipt, finish) {
  const notes = finish === "length" ? [t("cut_off")] : [];
  if (receipt?.thinking.unasked) notes.push(t("unasked"));
  const by = receipt?.thinking.closed_by;
  if (["budget", "caller", "length"].includes(by)) notes.push(t(`closed_by_${by}`));
  return notes;
}
