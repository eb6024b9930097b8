-- Every statement of the SQLite store. `now` and all other times come in as text from the store's clock.
-- Needs SQLite 3.37 (STRICT); nothing newer is used. The statements under "producers" also run on the caller's own
-- connection, through SQLAlchemy too, so their text has no colon except in front of a parameter.

-- name: open_connection
-- One statement a line; run on every new connection.
PRAGMA busy_timeout = 5000;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
PRAGMA trusted_schema = OFF;
PRAGMA cell_size_check = ON;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -16000;
PRAGMA wal_autocheckpoint = 4000;
PRAGMA journal_size_limit = 67108864;

-- name: get_journal_mode
PRAGMA journal_mode;

-- name: set_journal_mode
PRAGMA journal_mode = WAL;

-- name: quick_check
PRAGMA quick_check(20);

-- name: begin_write
BEGIN IMMEDIATE;

-- name: begin_read
BEGIN DEFERRED;

-- name: commit
COMMIT;

-- name: rollback
ROLLBACK;

-- name: savepoint
SAVEPOINT one_row;

-- name: release_savepoint
RELEASE one_row;

-- name: rollback_to_savepoint
ROLLBACK TO one_row;


-- ---- schema

-- name: create_schema_migrations
CREATE TABLE IF NOT EXISTS schema_migrations (
    version INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at TEXT NOT NULL
) STRICT;

-- name: has_schema_migrations
SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_migrations';

-- name: schema_version
SELECT coalesce(max(version), 0) FROM schema_migrations;

-- name: record_migration
INSERT INTO schema_migrations (version, name, applied_at) VALUES (:version, :name, :now);


-- ---- producers

-- name: enqueue
-- Rows come as one JSON array of arrays. A task that has ended under the same id is not stored again.
INSERT INTO tasks (id, type, queue, priority, args, max_attempts, timeout_s, unique_key, tags, meta, enqueued_at, run_at, updated_at)
SELECT
    json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'),
    json_extract(value, '$[4]'), json_extract(value, '$[5]'), json_extract(value, '$[6]'), json_extract(value, '$[7]'),
    json_extract(value, '$[8]'), json_extract(value, '$[9]'), json_extract(value, '$[10]'), json_extract(value, '$[11]'),
    json_extract(value, '$[10]')
FROM json_each(:rows)
WHERE NOT EXISTS (SELECT 1 FROM task_history AS h WHERE h.id = json_extract(value, '$[0]'))
  AND NOT EXISTS (
    SELECT 1 FROM task_traces AS c
    WHERE c.last_id >= json_extract(value, '$[0]') AND c.first_id <= json_extract(value, '$[0]')
      AND instr(c.leases, json_extract(value, '$[0]'))
)
ORDER BY key
ON CONFLICT DO NOTHING
RETURNING id;

-- name: enqueue_one
-- The same for one row, values in the order of the columns. Run for each row of a batch it takes half the time; a batch of
-- which not all rows were stored is rolled back and goes the other way, which says which were.
INSERT INTO tasks (id, type, queue, priority, args, max_attempts, timeout_s, unique_key, tags, meta, enqueued_at, run_at, updated_at)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?11
WHERE NOT EXISTS (SELECT 1 FROM task_history AS h WHERE h.id = ?1)
  AND NOT EXISTS (SELECT 1 FROM task_traces AS c WHERE c.last_id >= ?1 AND c.first_id <= ?1 AND instr(c.leases, ?1))
ON CONFLICT DO NOTHING;

-- name: enqueue_new
-- As enqueue_one, where nothing has ended under these ids. That is a fifth less work.
INSERT INTO tasks (id, type, queue, priority, args, max_attempts, timeout_s, unique_key, tags, meta, enqueued_at, run_at, updated_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?11)
ON CONFLICT DO NOTHING;

-- name: any_ended_between
-- Ids made one after the other stand side by side, so one look nearly always answers for a whole batch.
SELECT EXISTS (SELECT 1 FROM task_history WHERE id BETWEEN :first AND :last)
    OR EXISTS (SELECT 1 FROM task_traces WHERE last_id >= :first AND first_id <= :last);

-- name: holders_of_keys
-- Which task holds each unique key now.
SELECT t.unique_key, t.id
FROM json_each(:rows) AS k
CROSS JOIN tasks AS t ON t.unique_key = k.value
WHERE t.unique_key IS NOT NULL AND t.status IN ('pending', 'claimed', 'running');

-- name: known_ids
SELECT k.value
FROM json_each(:rows) AS k
WHERE EXISTS (SELECT 1 FROM tasks AS t WHERE t.id = k.value) OR EXISTS (SELECT 1 FROM task_history AS h WHERE h.id = k.value)
  OR EXISTS (SELECT 1 FROM task_traces AS c WHERE c.last_id >= k.value AND c.first_id <= k.value AND instr(c.leases, k.value));

-- name: get_task
SELECT * FROM tasks WHERE id = :id;

-- name: get_ended_task
SELECT * FROM task_history WHERE id = :id;

-- name: has_trace
SELECT 1 FROM task_traces WHERE last_id >= :id AND first_id <= :id AND instr(leases, :id) LIMIT 1;

-- name: get_attempts
SELECT * FROM task_attempts WHERE task_id = :id ORDER BY fence;


-- ---- the claimer

-- name: lanes
-- Two loose index scans: the cost grows with the number of lanes, never with the number of tasks.
WITH RECURSIVE q (queue) AS (
    SELECT min(queue) FROM tasks WHERE status = 'pending'
    UNION ALL
    SELECT (SELECT min(t.queue) FROM tasks AS t WHERE t.status = 'pending' AND t.queue > q.queue) FROM q WHERE q.queue IS NOT NULL
),
wanted (queue, concurrency, weight) AS (
    SELECT q.queue, s.concurrency, coalesce(s.weight, 1)
    FROM q LEFT JOIN queues AS s ON s.name = q.queue
    WHERE q.queue IS NOT NULL AND coalesce(s.paused, 0) = 0
      AND (:queues IS NULL OR q.queue IN (SELECT value FROM json_each(:queues)))
),
lane (queue, priority, concurrency, weight) AS (
    SELECT w.queue, (SELECT max(t.priority) FROM tasks AS t WHERE t.status = 'pending' AND t.queue = w.queue), w.concurrency, w.weight
    FROM wanted AS w
    UNION ALL
    SELECT
        l.queue, (SELECT max(t.priority) FROM tasks AS t WHERE t.status = 'pending' AND t.queue = l.queue AND t.priority < l.priority),
        l.concurrency, l.weight
    FROM lane AS l WHERE l.priority IS NOT NULL
)
SELECT queue, priority, concurrency, weight FROM lane WHERE priority IS NOT NULL ORDER BY priority DESC, queue;

-- name: claimable
-- The lanes were read before, so a queue may have been paused since; or they were not, and it may have got a limit.
SELECT id, type, queue, priority, attempts, max_attempts, fence, timeout_s, enqueued_at, due_at, tags, meta, args
FROM tasks
WHERE status = 'pending' AND queue = :queue AND priority = :priority AND due_at >= :since AND due_at <= :now
  AND type IN (SELECT value FROM json_each(:types))
  AND NOT EXISTS (SELECT 1 FROM queues WHERE name = :queue AND (paused OR (:unread AND concurrency IS NOT NULL)))
ORDER BY due_at, id
LIMIT :limit;

-- name: claimable_newest
SELECT id, type, queue, priority, attempts, max_attempts, fence, timeout_s, enqueued_at, due_at, tags, meta, args
FROM tasks
WHERE status = 'pending' AND queue = :queue AND priority = :priority AND due_at >= :since AND due_at <= :now
  AND type IN (SELECT value FROM json_each(:types))
  AND NOT EXISTS (SELECT 1 FROM queues WHERE name = :queue AND (paused OR (:unread AND concurrency IS NOT NULL)))
ORDER BY due_at DESC, id DESC
LIMIT :limit;

-- name: claim
-- The statement before read the rows in the same write transaction, so nothing can have changed since. One statement for
-- all rows that get the same values: run row by row it takes twice the time.
UPDATE tasks
SET status = :status, worker_id = :worker_id, fence = fence + 1, attempts = attempts + :charge, max_attempts = :max_attempts,
    timeout_s = :timeout_s, started_at = :started_at, updated_at = :now, cancel_requested = 0, progress = NULL
WHERE id IN (SELECT value FROM json_each(:ids));

-- name: held
-- The leased rows among these ids, as the decisions about them need them.
SELECT t.id, t.type, t.status, t.fence, t.worker_id, t.attempts, t.max_attempts, t.refunds, t.cancel_requested, t.next_retry_at, t.started_at
FROM json_each(:ids) AS i
CROSS JOIN tasks AS t ON t.id = i.value
WHERE t.status IN ('claimed', 'running');

-- name: put_back
-- To pending or dead_letter. A dead letter still says where it ran last.
UPDATE tasks
SET status = ?2, attempts = ?3, refunds = ?4, next_retry_at = ?5, last_error = coalesce(?6, last_error),
    worker_id = CASE WHEN ?2 = 'pending' THEN NULL ELSE worker_id END, cancel_requested = 0, updated_at = ?7
WHERE id = ?1;

-- name: archive
-- To completed or cancelled, followed by delete_ended. Each row: id, status, attempts, error, result, started_at, duration_s.
INSERT INTO task_history (
    id, type, queue, status, priority, attempts, max_attempts, fence, worker_id, unique_key, timeout_s, enqueued_at, run_at,
    started_at, finished_at, duration_s, updated_at, tags, meta, last_error, args, result
)
SELECT
    t.id, t.type, t.queue, json_extract(r.value, '$[1]'), t.priority, json_extract(r.value, '$[2]'), t.max_attempts, t.fence,
    t.worker_id, t.unique_key, t.timeout_s, t.enqueued_at, t.run_at, coalesce(json_extract(r.value, '$[5]'), t.started_at), :now,
    json_extract(r.value, '$[6]'), :now, t.tags, t.meta, coalesce(json_extract(r.value, '$[3]'), t.last_error), t.args,
    json_extract(r.value, '$[4]')
FROM json_each(:rows) AS r
CROSS JOIN tasks AS t ON t.id = json_extract(r.value, '$[0]');

-- name: leased_places
-- Which of these ids are leased: their places in the array, by type and fence. Whether that is the fence of the report is for the
-- caller, who nearly always has one group.
SELECT t.type, t.fence, json_group_array(i.key)
FROM json_each(:ids) AS i
CROSS JOIN tasks AS t ON t.id = i.value
WHERE t.status IN ('claimed', 'running')
GROUP BY t.type, t.fence;

-- name: complete
-- Success, after leased_places has told in the same transaction that all of them may; followed by delete_ended. It returns
-- nothing: with RETURNING every row is first written to a table that nobody sees, which takes nearly as long as the insert. Each row:
-- id, result, started_at, duration_s.
INSERT INTO task_history (
    id, type, queue, status, priority, attempts, max_attempts, fence, worker_id, unique_key, timeout_s, enqueued_at, run_at,
    started_at, finished_at, duration_s, updated_at, tags, meta, last_error, args, result
)
SELECT
    t.id, t.type, t.queue, 'completed', t.priority,
    min(t.attempts + (t.status = 'claimed'), max(coalesce(t.max_attempts, :default_max_attempts), 1)), t.max_attempts, t.fence,
    t.worker_id, t.unique_key, t.timeout_s, t.enqueued_at, t.run_at, coalesce(json_extract(r.value, '$[2]'), t.started_at), :now,
    json_extract(r.value, '$[3]'), :now, t.tags, t.meta, t.last_error, t.args, json_extract(r.value, '$[1]')
FROM json_each(:rows) AS r
CROSS JOIN tasks AS t ON t.id = json_extract(r.value, '$[0]');

-- name: add_trace
INSERT INTO task_traces (last_id, first_id, ended_at, leases) VALUES (?1, ?2, ?3, ?4);

-- name: delete_ended
DELETE FROM tasks WHERE id IN (SELECT value FROM json_each(:ids));

-- name: add_attempt
-- A second outcome for the same (task, fence) can only follow from a row changed by hand; the first one stands.
INSERT INTO task_attempts (task_id, fence, attempt, outcome, worker_id, started_at, ended_at, duration_s, error, traceback)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
ON CONFLICT (task_id, fence) DO NOTHING;

-- name: depart
INSERT INTO departures (type, n) VALUES (?1, ?2)
ON CONFLICT (type) DO UPDATE SET n = n + excluded.n;

-- name: stored_before
-- The outcome that stands there for (task, fence); NULL, if none does. A `lost` one was written by a recovery, a cancelled
-- row in the history without an attempt by an operator: their owner's word came too late.
SELECT json_extract(i.value, '$[0]'), json_extract(i.value, '$[1]'),
  CASE WHEN EXISTS (
    SELECT 1 FROM task_history AS h
    WHERE h.id = json_extract(i.value, '$[0]') AND h.fence = json_extract(i.value, '$[1]') AND h.status = 'completed'
  ) OR EXISTS (
    -- leases was written as this array was, so what stands in the one can be found in the other.
    SELECT 1 FROM task_traces AS c
    WHERE c.last_id >= json_extract(i.value, '$[0]') AND c.first_id <= json_extract(i.value, '$[0]')
      AND instr(c.leases, i.value)
  ) THEN 'success' ELSE (
    SELECT a.outcome FROM task_attempts AS a
    WHERE a.task_id = json_extract(i.value, '$[0]') AND a.fence = json_extract(i.value, '$[1]')
  ) END
FROM json_each(:leases) AS i;

-- name: start
UPDATE tasks SET status = 'running', attempts = attempts + 1, started_at = ?3, updated_at = ?3
WHERE id = ?1 AND fence = ?2 AND status = 'claimed';

-- name: set_progress
UPDATE tasks SET progress = ?3 WHERE id = ?1 AND fence = ?2 AND status IN ('claimed', 'running');

-- name: add_counter
INSERT INTO counters (worker_id, name, labels, value) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (worker_id, name, labels) DO UPDATE SET value = value + excluded.value;

-- name: get_counters
SELECT name, labels, value FROM counters WHERE worker_id = :worker_id ORDER BY name, labels;

-- name: owned
SELECT id, fence, status, cancel_requested FROM tasks WHERE worker_id = :worker_id AND status IN ('claimed', 'running') ORDER BY id;

-- name: cancel_requests
SELECT id, fence FROM tasks
WHERE worker_id = :worker_id AND status IN ('claimed', 'running') AND cancel_requested = 1 ORDER BY id;


-- ---- the heartbeat

-- name: register
INSERT INTO workers (id, hostname, pid, version, started_at, last_heartbeat, timeout_s, pool_size, active, sleeping)
VALUES (:id, :hostname, :pid, :version, :now, :now, :timeout_s, :pool_size, :active, 0)
ON CONFLICT (id) DO UPDATE SET
    hostname = excluded.hostname, pid = excluded.pid, version = excluded.version, started_at = excluded.started_at,
    last_heartbeat = excluded.last_heartbeat, timeout_s = excluded.timeout_s, pool_size = excluded.pool_size, active = excluded.active;

-- name: remove_other_workers
DELETE FROM workers WHERE id <> :id;

-- name: beat
UPDATE workers SET last_heartbeat = :now, active = :active, pool_size = :pool_size, timeout_s = :timeout_s WHERE id = :id;

-- name: deregister
DELETE FROM workers WHERE id = :id;

-- name: get_workers
SELECT w.*, l.worker_id IS NOT NULL AS is_leader
FROM workers AS w LEFT JOIN leader AS l ON l.worker_id = w.id AND l.expires_at > :now
ORDER BY w.started_at, w.id;


-- ---- the leader

-- name: get_leader
SELECT worker_id, term, expires_at FROM leader WHERE name = 'main';

-- name: set_leader
INSERT INTO leader (name, worker_id, term, expires_at) VALUES ('main', :worker_id, :term, :expires_at)
ON CONFLICT (name) DO UPDATE SET worker_id = excluded.worker_id, term = excluded.term, expires_at = excluded.expires_at;

-- name: set_term_end
UPDATE leader SET expires_at = :expires_at
WHERE name = 'main' AND worker_id = :worker_id AND term = :term AND expires_at > :now;

-- name: end_other_terms
-- A single instance has just started: the lead must not stay with its predecessor until that one's term has run out.
UPDATE leader SET expires_at = :now WHERE worker_id <> :worker_id AND expires_at > :now;

-- name: leads
SELECT 1 FROM leader WHERE name = 'main' AND worker_id = :worker_id AND term = :term AND expires_at > :now;

-- name: forget_future_heartbeats
-- The wall clock was set back: a dead worker must not live for as long as the clock jumped.
UPDATE workers SET last_heartbeat = :now WHERE last_heartbeat > :now;

-- name: heartbeats
SELECT id, last_heartbeat, timeout_s FROM workers;

-- name: orphans
SELECT t.id, t.type, t.status, t.fence, t.worker_id, t.attempts, t.max_attempts, t.refunds, t.cancel_requested, t.next_retry_at, t.started_at
FROM tasks AS t INDEXED BY idx_tasks_live
WHERE t.status IN ('claimed', 'running') AND t.id > :after
  AND (t.worker_id IS NULL OR NOT EXISTS (SELECT 1 FROM workers AS w WHERE w.id = t.worker_id))
ORDER BY t.id
LIMIT :limit;

-- name: count_leased
SELECT count(*) FROM tasks INDEXED BY idx_tasks_live WHERE status IN ('claimed', 'running');

-- name: prunable_history
SELECT id FROM task_history WHERE status = :status AND finished_at < :before ORDER BY finished_at LIMIT :limit;

-- name: prunable_dead_letters
SELECT id FROM tasks WHERE status = 'dead_letter' AND updated_at < :before ORDER BY updated_at LIMIT :limit;

-- name: clear_results
UPDATE task_history SET result = NULL
WHERE id IN (
    SELECT id FROM task_history INDEXED BY idx_history_results
    WHERE result IS NOT NULL AND status = 'completed' AND finished_at < :before ORDER BY finished_at LIMIT :limit
);

-- name: delete_history
DELETE FROM task_history WHERE id IN (SELECT value FROM json_each(:ids));

-- name: delete_attempts
DELETE FROM task_attempts WHERE task_id IN (SELECT value FROM json_each(:ids));

-- name: prunable_traces
SELECT rowid, leases FROM task_traces WHERE ended_at < :before ORDER BY ended_at LIMIT :limit;

-- name: delete_traces
DELETE FROM task_traces WHERE rowid IN (SELECT value FROM json_each(:rows));

-- name: delete_attempts_of_gone
DELETE FROM task_attempts
WHERE task_id IN (SELECT value FROM json_each(:ids))
  AND NOT EXISTS (SELECT 1 FROM tasks AS t WHERE t.id = task_attempts.task_id)
  AND NOT EXISTS (SELECT 1 FROM task_history AS h WHERE h.id = task_attempts.task_id);

-- name: prune_counters
DELETE FROM counters WHERE worker_id NOT IN (SELECT id FROM workers);

-- name: count_pending
SELECT type, count(*) FROM tasks INDEXED BY idx_tasks_claimable WHERE status = 'pending' GROUP BY type;

-- name: count_live
SELECT type, status, count(*) FROM tasks INDEXED BY idx_tasks_live WHERE status IN ('claimed', 'running') GROUP BY type, status;

-- name: count_dead
SELECT type, count(*) FROM tasks INDEXED BY idx_tasks_dead WHERE status = 'dead_letter' GROUP BY type;

-- name: get_departures
SELECT type, n FROM departures;

-- name: count_ended
SELECT type, status, count(*) FROM task_history INDEXED BY idx_history_finished GROUP BY type, status;


-- ---- operators

-- name: list_tasks
SELECT * FROM tasks
WHERE id < :before AND (:status IS NULL OR status = :status) AND (:type IS NULL OR type = :type)
  AND (:queue IS NULL OR queue = :queue) AND (:worker_id IS NULL OR worker_id = :worker_id)
  AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(CASE WHEN json_valid(tags) THEN tags ELSE '[]' END) WHERE value = :tag))
ORDER BY id DESC LIMIT :limit;

-- name: list_tasks_by_id
SELECT * FROM tasks
WHERE id IN (SELECT value FROM json_each(:ids))
  AND id < :before AND (:status IS NULL OR status = :status) AND (:type IS NULL OR type = :type)
  AND (:queue IS NULL OR queue = :queue) AND (:worker_id IS NULL OR worker_id = :worker_id)
  AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(CASE WHEN json_valid(tags) THEN tags ELSE '[]' END) WHERE value = :tag))
ORDER BY id DESC LIMIT :limit;

-- name: list_history
SELECT * FROM task_history
WHERE id < :before AND (:status IS NULL OR status = :status) AND (:type IS NULL OR type = :type)
  AND (:queue IS NULL OR queue = :queue) AND (:worker_id IS NULL OR worker_id = :worker_id)
  AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(CASE WHEN json_valid(tags) THEN tags ELSE '[]' END) WHERE value = :tag))
ORDER BY id DESC LIMIT :limit;

-- name: list_history_by_id
SELECT * FROM task_history
WHERE id IN (SELECT value FROM json_each(:ids))
  AND id < :before AND (:status IS NULL OR status = :status) AND (:type IS NULL OR type = :type)
  AND (:queue IS NULL OR queue = :queue) AND (:worker_id IS NULL OR worker_id = :worker_id)
  AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(CASE WHEN json_valid(tags) THEN tags ELSE '[]' END) WHERE value = :tag))
ORDER BY id DESC LIMIT :limit;

-- name: match_tasks
SELECT id, type, status, attempts FROM tasks
WHERE (:status IS NULL OR status = :status) AND (:type IS NULL OR type = :type)
  AND (:queue IS NULL OR queue = :queue) AND (:worker_id IS NULL OR worker_id = :worker_id)
  AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(CASE WHEN json_valid(tags) THEN tags ELSE '[]' END) WHERE value = :tag));

-- name: match_tasks_by_id
SELECT id, type, status, attempts FROM tasks
WHERE id IN (SELECT value FROM json_each(:ids))
  AND (:status IS NULL OR status = :status) AND (:type IS NULL OR type = :type)
  AND (:queue IS NULL OR queue = :queue) AND (:worker_id IS NULL OR worker_id = :worker_id)
  AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(CASE WHEN json_valid(tags) THEN tags ELSE '[]' END) WHERE value = :tag));

-- name: match_history
SELECT id, type, status, attempts FROM task_history
WHERE (:status IS NULL OR status = :status) AND (:type IS NULL OR type = :type)
  AND (:queue IS NULL OR queue = :queue) AND (:worker_id IS NULL OR worker_id = :worker_id)
  AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(CASE WHEN json_valid(tags) THEN tags ELSE '[]' END) WHERE value = :tag));

-- name: match_history_by_id
SELECT id, type, status, attempts FROM task_history
WHERE id IN (SELECT value FROM json_each(:ids))
  AND (:status IS NULL OR status = :status) AND (:type IS NULL OR type = :type)
  AND (:queue IS NULL OR queue = :queue) AND (:worker_id IS NULL OR worker_id = :worker_id)
  AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(CASE WHEN json_valid(tags) THEN tags ELSE '[]' END) WHERE value = :tag));

-- name: request_cancel
UPDATE tasks SET cancel_requested = 1, updated_at = ?2 WHERE id = ?1 AND status IN ('claimed', 'running');

-- name: retry_dead_letter
-- Ignored when its unique key is taken meanwhile. The fence is kept, the refunds are granted anew.
UPDATE OR IGNORE tasks
SET status = 'pending', attempts = 0, refunds = 0, next_retry_at = NULL, run_at = min(run_at, ?2), worker_id = NULL,
    cancel_requested = 0, updated_at = ?2
WHERE id = ?1 AND status = 'dead_letter';

-- name: retry_cancelled
-- Ignored when its unique key is taken meanwhile; followed by delete_history.
INSERT OR IGNORE INTO tasks (
    id, type, queue, status, priority, attempts, max_attempts, fence, unique_key, timeout_s, enqueued_at, run_at, updated_at,
    tags, meta, last_error, args
)
SELECT
    id, type, queue, 'pending', priority, 0, max_attempts, fence, unique_key, timeout_s, enqueued_at, min(run_at, ?2), ?2,
    tags, meta, last_error, args
FROM task_history WHERE id = ?1 AND status = 'cancelled';

-- name: delete_tasks
DELETE FROM tasks WHERE id IN (SELECT value FROM json_each(:ids)) RETURNING type;

-- name: queue_settings
SELECT name, paused, concurrency, weight FROM queues;

-- name: queue_counts
SELECT queue, 'pending', count(*) FROM tasks INDEXED BY idx_tasks_claimable WHERE status = 'pending' GROUP BY queue
UNION ALL
SELECT queue, status, count(*) FROM tasks INDEXED BY idx_tasks_live WHERE status IN ('claimed', 'running') GROUP BY queue, status
UNION ALL
SELECT queue, 'dead_letter', count(*) FROM tasks INDEXED BY idx_tasks_dead WHERE status = 'dead_letter' GROUP BY queue;

-- name: queue_due
SELECT queue, count(*) FROM tasks INDEXED BY idx_tasks_claimable WHERE status = 'pending' AND due_at <= :now GROUP BY queue;

-- name: set_queue
INSERT INTO queues (name, paused, concurrency, weight)
VALUES (:name, coalesce(:paused, 0), nullif(:concurrency, 0), coalesce(:weight, 1))
ON CONFLICT (name) DO UPDATE SET
    paused = coalesce(:paused, paused),
    concurrency = CASE WHEN :concurrency IS NULL THEN concurrency ELSE nullif(:concurrency, 0) END,
    weight = coalesce(:weight, weight);
