-- What the demo claims at its end, asked of the store in plain SQL. `sent` is a temporary table of the asking
-- connection: the ids that enqueueing returned.

-- name: make_sent
CREATE TEMP TABLE sent (id TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID

-- name: fill_sent
INSERT INTO sent (id) VALUES (?)

-- name: make_ends
CREATE TEMP VIEW ends AS
SELECT id, type, status, attempts, max_attempts, NULL AS result_bytes FROM main.tasks WHERE status = 'dead_letter'
UNION ALL
SELECT id, type, status, attempts, max_attempts, length(result) FROM main.task_history

-- name: ended
SELECT (SELECT count(*) FROM task_history) + (SELECT count(*) FROM tasks WHERE status = 'dead_letter')

-- name: sent
SELECT count(*) FROM sent

-- name: ended_once
SELECT count(*) FROM (SELECT sent.id FROM sent JOIN ends ON ends.id = sent.id GROUP BY sent.id HAVING count(*) = 1)

-- name: ended_twice
SELECT count(*) FROM (SELECT id FROM ends GROUP BY id HAVING count(*) > 1)

-- name: not_ended
SELECT count(*) FROM tasks WHERE status <> 'dead_letter'

-- name: never_sent
SELECT count(*) FROM ends WHERE id NOT IN (SELECT id FROM sent)

-- name: attempts_out_of_bounds
SELECT count(*) FROM ends WHERE attempts < 1 OR attempts > max_attempts

-- name: unexplained_dead_letters
SELECT count(*) FROM tasks
WHERE status = 'dead_letter' AND (last_error IS NULL OR id NOT IN (SELECT task_id FROM task_attempts))

-- name: results_missing
SELECT count(*) FROM ends WHERE status = 'completed' AND type LIKE 'survey:file%' AND result_bytes IS NULL

-- name: crashed
SELECT count(*) FROM task_attempts WHERE outcome = 'crashed'

-- name: crashed_by_sigkill
SELECT count(*) FROM task_attempts WHERE outcome = 'crashed' AND error LIKE '%SIGKILL%'

-- name: crashed_and_ended
SELECT count(*) FROM task_attempts WHERE outcome = 'crashed' AND task_id IN (SELECT id FROM ends)

-- name: crash_example
SELECT error FROM task_attempts WHERE outcome = 'crashed' LIMIT 1

-- name: timings
SELECT type, 'completed' AS status, attempts, duration_s,
    (julianday(started_at) - julianday(enqueued_at)) * 86400.0 AS waited_s
FROM task_history
UNION ALL
SELECT type, status, attempts, NULL, NULL FROM tasks

-- name: span
SELECT (julianday(max(finished_at)) - julianday(min(enqueued_at))) * 86400.0
FROM task_history WHERE type LIKE 'survey:file%'

-- name: dead_letters
SELECT json_extract(args, '$.path'), attempts, last_error FROM tasks WHERE status = 'dead_letter' ORDER BY attempts DESC, id
