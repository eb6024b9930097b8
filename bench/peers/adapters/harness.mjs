// As harness.py and marks.py, for the queues of Node.js.
import { openSync, writeSync } from "node:fs";

export const url = process.env.BENCH_URL;
export const options = JSON.parse(process.env.BENCH_OPTIONS ?? "{}");

let file;
export function mark(number, sentNs) {
  file ??= openSync(process.env.BENCH_MARKS, "a");
  const record = Buffer.allocUnsafe(16);
  record.writeBigInt64LE(BigInt(number), 0);
  record.writeBigInt64LE(sentNs ? now() - BigInt(sentNs) : 0n, 8);
  writeSync(file, record);
}

// Unix nanoseconds. Date.now() has milliseconds only; both halves of performance are of the same clock as hrtime.
export function now() {
  return BigInt(Math.round((performance.timeOrigin + performance.now()) * 1e6));
}

export async function paced(send, count, everyS) {
  for (let number = 0; number < count; number += 1) {
    await send(number, now().toString());
    await new Promise((resolve) => setTimeout(resolve, everyS * 1000));
  }
}

export async function run({ setup, enqueue, work, pace }) {
  const [verb, ...words] = process.argv.slice(2);
  if (verb === "work") return work();
  if (verb === "setup") await setup();
  else if (verb === "enqueue") {
    const began = performance.now();
    await enqueue(Number(words[0]));
    console.log(JSON.stringify({ seconds: (performance.now() - began) / 1000 }));
  } else if (verb === "pace") await pace(Number(words[0]), Number(words[1]));
  else throw new Error(`unknown: ${verb}`);
  process.exit(0);
}

