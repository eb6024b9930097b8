-- As postgres.sql.

-- name: fill_history
WITH RECURSIVE given(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM given WHERE n < :last),
timed AS (SELECT n, julianday('now') - 6 + 5.95 * n / :rows AS at FROM given),
named AS (SELECT n, at, printf('%012x', CAST((at - 2440587.5) * 86400000 AS INTEGER)) AS ms FROM timed)
INSERT INTO task_history (id, type, queue, status, priority, attempts, max_attempts, fence, worker_id, enqueued_at, run_at,
                          started_at, finished_at, duration_s, updated_at, args)
SELECT substr(ms, 1, 8) || '-' || substr(ms, 9) || printf('-7%03x-8%03x-%012x', n & 4095, (n >> 12) & 4095, n),
       'mail:send', CASE n % 3 WHEN 0 THEN 'default' WHEN 1 THEN 'mail' ELSE 'reports' END, 'completed', 0, 1, 5, 1,
       'host-4021-1b2c3d', strftime('%Y-%m-%d %H:%M:%f000', at), strftime('%Y-%m-%d %H:%M:%f000', at),
       strftime('%Y-%m-%d %H:%M:%f000', at), strftime('%Y-%m-%d %H:%M:%f000', at), 0.1, strftime('%Y-%m-%d %H:%M:%f000', at),
       json_object('user_id', n, 'language', 'en', 'template', 'welcome')
FROM named;

-- name: fill_future
WITH RECURSIVE given(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM given WHERE n < :last),
timed AS (SELECT n, julianday('now') - 6 + 5.95 * n / :rows AS at FROM given),
named AS (SELECT n, at, printf('%012x', CAST((at - 2440587.5) * 86400000 AS INTEGER)) AS ms FROM timed)
INSERT INTO tasks (id, type, queue, priority, enqueued_at, run_at, updated_at, args)
SELECT substr(ms, 1, 8) || '-' || substr(ms, 9) || printf('-7%03x-8%03x-%012x', n & 4095, (n >> 12) & 4095, n),
       'bench:noop', 'default', 0, strftime('%Y-%m-%d %H:%M:%f000', at),
       strftime('%Y-%m-%d %H:%M:%f000', julianday('now') + 1 + n * 0.01 / 86400), strftime('%Y-%m-%d %H:%M:%f000', at),
       json_object('user_id', n, 'language', 'en')
FROM named;

-- name: settle
ANALYZE;

-- name: done
SELECT coalesce(sum(n), 0) FROM departures;

-- name: claims
-- How many claims took how long, by upper bound, all workers together.
SELECT labels, sum(value) FROM counters WHERE name = 'task_claim_duration_seconds_bucket' GROUP BY labels;

-- name: pending
SELECT count(*) FROM tasks WHERE status = 'pending' AND due_at <= strftime('%Y-%m-%d %H:%M:%f000', 'now');

-- name: sizes
-- All is in one file: its bytes, those of free pages in it, nothing, and no dead rows.
SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size),
       (SELECT freelist_count FROM pragma_freelist_count) * (SELECT page_size FROM pragma_page_size), 0, NULL;

-- name: pin
-- A reader that stays: the write-ahead log cannot begin again.
SELECT count(*) FROM queues;

-- name: pin_sees
-- What a snapshot shows of the live table.
SELECT count(*) FROM tasks;
