// Graphile Worker with its local queue and its batches of completions.
import { makeWorkerUtils, run as startRunner, runMigrations } from "graphile-worker";
import { Logger } from "graphile-worker";

import { mark, options, paced, run, url } from "./harness.mjs";

const BATCH = 5000;
const quiet = new Logger(() => () => {});

async function withUtils(work) {
  const utils = await makeWorkerUtils({ connectionString: url, logger: quiet });
  try {
    await work(utils);
  } finally {
    await utils.release();
  }
}

await run({
  setup: () => runMigrations({ connectionString: url, logger: quiet }),
  enqueue: (jobs) =>
    withUtils(async (utils) => {
      for (let first = 0; first < jobs; first += BATCH) {
        const numbers = Array.from({ length: Math.min(BATCH, jobs - first) }, (_, index) => first + index);
        await utils.addJobs(numbers.map((number) => ({ identifier: "mark", payload: { number, sent: 0 } })));
      }
    }),
  work: () =>
    startRunner({
      connectionString: url,
      logger: quiet,
      taskList: { mark: ({ number, sent }) => mark(number, sent) },
      preset: { worker: { ...options } },
    }),
  pace: (count, everyS) =>
    withUtils((utils) => paced((number, sent) => utils.addJob("mark", { number, sent }), count, everyS)),
});
