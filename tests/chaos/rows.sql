-- name: tasks
SELECT CAST(id AS text), type, status, attempts, max_attempts, fence, refunds, worker_id, unique_key, last_error FROM tasks;

-- name: history
SELECT CAST(id AS text), type, status, attempts, max_attempts, fence, worker_id, unique_key, CAST(result AS text) FROM task_history;

-- name: attempts
SELECT CAST(task_id AS text), fence, attempt, outcome, worker_id, error, started_at, duration_s FROM task_attempts;

-- name: workers
SELECT id FROM workers;

-- name: leader
SELECT worker_id, term FROM leader;

-- name: departures
SELECT type, sum(n) FROM departures GROUP BY type;

-- name: unfinished
SELECT count(*) FROM tasks WHERE status IN ('pending', 'claimed', 'running');

-- name: open_transactions
SELECT application_name || ' ' || state || ' ' || left(query, 80) FROM pg_stat_activity
WHERE application_name LIKE 'shiftboss %' AND datname = current_database();

-- name: backends
SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'shiftboss %' AND datname = current_database();

-- name: terminate
SELECT pg_terminate_backend(%s);

-- name: terminate_all
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name LIKE 'shiftboss %' AND datname = current_database();

-- name: pin
SELECT pg_current_xact_id(), count(*) FROM queues;

-- name: lock_rows
SELECT id FROM (SELECT id FROM tasks WHERE status IN ('running', 'claimed', 'pending') ORDER BY random() LIMIT 50) AS few
JOIN tasks USING (id) FOR UPDATE OF tasks;

-- name: lock_upkeep
SELECT name FROM leader FOR UPDATE;

-- name: lock_table
LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE;

-- name: lock_held
SELECT id FROM tasks WHERE status IN ('running', 'claimed') LIMIT 200 FOR UPDATE SKIP LOCKED;

-- name: reload_conf
SELECT pg_reload_conf();
