-- What the bench asks a SQLite file, and the bare statements that it compares with.

-- name: is_there
SELECT EXISTS (SELECT 1 FROM tasks WHERE id = :id);

-- name: any_left
SELECT EXISTS (SELECT 1 FROM tasks);

-- name: span
-- How many of these tasks have ended, with how many attempts; when the first was started and the last one stored.
SELECT count(DISTINCT id), sum(attempts), min(started_at), max(finished_at) FROM task_history WHERE id BETWEEN :first AND :last AND status = 'completed';

-- name: bare_insert
INSERT INTO tasks (id, type, enqueued_at, run_at, updated_at) VALUES (:id, 'bench:bare', :now, :now, :now);

-- name: begin
BEGIN IMMEDIATE;

-- name: commit
COMMIT;

-- name: pragma_synchronous
PRAGMA synchronous = FULL;
