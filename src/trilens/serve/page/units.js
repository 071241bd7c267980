// Numbers for people, as the receipts write them.
const scaled = (n, units, plain) => {
  for (const [unit, size] of units) if (Math.abs(n) >= size) return `${trim(n / size)} ${unit}`;
  return `${trim(n)}${plain}`;
};
const trim = (n) => (Math.abs(n) >= 100 ? n.toFixed(0) : Math.abs(n) >= 10 ? n.toFixed(1) : n.toFixed(2));

export const bytes = (n) => scaled(n, [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["KB", 1e3]], " B");
export const flop = (n) => scaled(n, [["PFLOP", 1e15], ["TFLOP", 1e12], ["GFLOP", 1e9], ["MFLOP", 1e6], ["KFLOP", 1e3]], " FLOP");
export const count = (n) => n.toLocaleString("en");
export const big = (n) => scaled(n, [["T", 1e12], ["B", 1e9], ["M", 1e6], ["K", 1e3]], "").replace(" ", "");
export const seconds = (n) => (n >= 1 ? `${n.toFixed(2)} s` : n >= 1e-3 ? `${(n * 1e3).toFixed(1)} ms` : `${(n * 1e6).toFixed(0)} µs`);
export const percent = (n) => `${(100 * n).toFixed(n < 0.1 ? 1 : 0)} %`;
