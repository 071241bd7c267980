// What a conversation has cost: the sum of its receipts.
import { count, flop, inLine, seconds } from "../units.js";
import { t } from "../words/words.js";
import { computing } from "./receipt.js";
import { path } from "./tree.js";

/** @typedef {import("./tree.js").Conversation} Conversation */

/** What all answers of a conversation took, those on other branches included. @param {Conversation} talk */
function costs(talk) {
  const sum = { answers: 0, shown: 0, prompt: 0, completion: 0, flops: 0, seconds: 0, joules: 0 };
  const shown = new Set(path(talk));
  for (const turn of talk.turns) {
    if (!turn.receipt) continue;
    sum.answers += 1;
    sum.shown += shown.has(turn) ? 1 : 0;
    sum.prompt += turn.receipt.tokens?.prompt ?? 0;
    sum.completion += turn.receipt.tokens?.completion ?? 0;
    sum.flops += turn.receipt.flops ?? 0;
    sum.seconds += computing(turn.receipt);
    sum.joules += turn.receipt.energy?.joules ?? 0;
  }
  return sum;
}

/** In one line; empty as long as one receipt says it all. @param {Conversation} talk */
export function costLine(talk) {
  const sum = costs(talk);
  if (sum.answers < 2) return "";
  const parts = [t("answers", { n: sum.answers }), t("in_out", { in: count(sum.prompt), out: count(sum.completion) })];
  if (sum.flops) parts.push(flop(sum.flops));
  parts.push(seconds(sum.seconds));
  if (sum.joules) parts.push(`${sum.joules.toFixed(1)} J`);
  if (sum.shown < sum.answers) parts.push(t("on_branches", { n: sum.answers - sum.shown }));
  return `${t("conversation_cost")}: ${inLine(parts)}`;
}
