-- What the bench asks a SQLite file, and the bare statements that it compares with.

-- name: is_there
SELECT EXISTS (SELECT 1 FROM tasks WHERE id = :id);

-- name: any_left
-- Of these: ids are in the order of their time.
SELECT EXISTS (SELECT 1 FROM tasks WHERE id BETWEEN :first AND :last);

-- name: release
-- All queues at once.
UPDATE queues SET paused = 0;

-- name: span
-- How many of these tasks have ended, with how many attempts; when the first was started and the last one stored.
SELECT count(DISTINCT id), sum(attempts), min(started_at), max(finished_at) FROM task_history WHERE id BETWEEN :first AND :last AND status = 'completed';

-- name: span_without_history
-- Nothing is left that was started; a trace of each.
SELECT count(DISTINCT json_extract(one.value, '$[0]')), count(*), NULL, max(t.ended_at) FROM task_traces AS t, json_each(t.leases) AS one
WHERE json_extract(one.value, '$[0]') BETWEEN :first AND :last;

-- name: bare_insert
INSERT INTO tasks (id, type, enqueued_at, run_at, updated_at) VALUES (:id, 'bench:bare', :now, :now, :now);

-- name: begin
BEGIN IMMEDIATE;

-- name: commit
COMMIT;

-- name: wal
PRAGMA journal_mode = wal;

-- name: synchronous_full
PRAGMA synchronous = FULL;

-- name: synchronous_normal
PRAGMA synchronous = NORMAL;

-- name: synchronous_off
PRAGMA synchronous = OFF;

-- name: bare_table
CREATE TABLE bare (n INTEGER PRIMARY KEY, said TEXT NOT NULL);

-- name: bare_row
INSERT INTO bare (n, said) VALUES (:n, 'a row of some length, as a task with few arguments has it');
