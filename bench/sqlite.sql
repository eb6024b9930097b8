-- What the bench asks a SQLite file, and the bare statements that it compares with.

-- name: is_there
SELECT EXISTS (SELECT 1 FROM tasks WHERE id = :id);

-- name: any_left
SELECT EXISTS (SELECT 1 FROM tasks);

-- name: span
-- When the first of these tasks was started and the last one stored.
SELECT count(*), min(started_at), max(finished_at) FROM task_history WHERE id BETWEEN :first AND :last;

-- name: bare_insert
INSERT INTO tasks (id, type, enqueued_at, run_at, updated_at) VALUES (:id, 'bench:bare', :now, :now, :now);

-- name: begin
BEGIN IMMEDIATE;

-- name: commit
COMMIT;

-- name: pragma_synchronous
PRAGMA synchronous = FULL;
