// pg-boss with batch handlers.
import { PgBoss } from "pg-boss";

import { mark, options, paced, run, url } from "./harness.mjs";

const BATCH = 5000;
const QUEUE = "bench";

async function withBoss(settings, work) {
  const boss = new PgBoss({ connectionString: url, ...settings });
  boss.on("error", (error) => console.error(error));
  await boss.start();
  await work(boss);
  return boss;
}

const producer = { supervise: false, schedule: false };

await run({
  setup: () => withBoss(producer, (boss) => boss.createQueue(QUEUE, options.queue ?? {})),
  enqueue: (jobs) =>
    withBoss(producer, async (boss) => {
      for (let first = 0; first < jobs; first += BATCH) {
        const numbers = Array.from({ length: Math.min(BATCH, jobs - first) }, (_, index) => first + index);
        await boss.insert(QUEUE, numbers.map((number) => ({ data: { number, sent: 0 } })));
      }
    }),
  work: () =>
    withBoss(options.instance ?? {}, async (boss) => {
      await boss.work(QUEUE, options.work, async (jobs) => {
        for (const { data } of jobs) mark(data.number, data.sent);
      });
      process.on("SIGTERM", async () => {
        await boss.stop();
        process.exit(0);
      });
    }),
  pace: (count, everyS) =>
    withBoss(producer, (boss) => paced((number, sent) => boss.send(QUEUE, { number, sent }), count, everyS)),
});
