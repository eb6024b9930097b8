-- Whether a queue has anything unfinished, in its own tables, of :jobs that were stored. Asked every few milliseconds, and only
-- after the last job has run: so the answer has to come at once.

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
-- Its view of all jobs takes seconds for some thousands, so what has ended is counted where it is recorded.
SELECT (SELECT coalesce(sum(completed_count), 0) FROM awa.receipt_completion_batches)
     + (SELECT count(*) FROM awa.done_entries)
     + (SELECT coalesce(sum(pruned_completed_count + pruned_failed_count), 0) FROM awa.queue_terminal_rollups) < %(jobs)s;

-- name: graphile_worker
SELECT EXISTS (SELECT 1 FROM graphile_worker._private_jobs);

-- name: pg_boss
SELECT EXISTS (SELECT 1 FROM pgboss.job WHERE state < 'completed');

-- name: huey
SELECT EXISTS (SELECT 1 FROM task);
