-- Whether a queue has anything unfinished, in its own tables. Asked every few milliseconds, and only after the last job has run.

-- name: settle
VACUUM (ANALYZE);

-- name: shiftboss
SELECT EXISTS (SELECT 1 FROM tasks);

-- name: procrastinate
SELECT EXISTS (SELECT 1 FROM procrastinate_jobs WHERE status IN ('todo', 'doing'));

-- name: pgqueuer
SELECT EXISTS (SELECT 1 FROM pgqueuer);

-- name: oban
SELECT EXISTS (SELECT 1 FROM oban_jobs WHERE state IN ('available', 'executing', 'scheduled', 'retryable'));

-- name: chancy
SELECT EXISTS (SELECT 1 FROM chancy_jobs WHERE state IN ('pending', 'running', 'retrying'));

-- name: awa
SELECT EXISTS (SELECT 1 FROM awa.jobs WHERE state NOT IN ('completed', 'failed', 'cancelled'));

-- name: graphile_worker
SELECT EXISTS (SELECT 1 FROM graphile_worker._private_jobs);

-- name: pg_boss
SELECT EXISTS (SELECT 1 FROM pgboss.job WHERE state < 'completed');

-- name: huey
SELECT EXISTS (SELECT 1 FROM task);
