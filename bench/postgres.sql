-- What the bench asks a PostgreSQL server, and the bare statements that it compares with.

-- name: is_there
SELECT EXISTS (SELECT 1 FROM tasks WHERE id = %(id)s::uuid);

-- name: any_left
-- Of these: ids are in the order of their time.
SELECT EXISTS (SELECT 1 FROM tasks WHERE id BETWEEN CAST(%(first)s AS uuid) AND CAST(%(last)s AS uuid));

-- name: release
-- All queues at once.
UPDATE queues SET paused = false;

-- name: span
-- How many of these tasks have ended, with how many attempts; when the first was started and the last one stored.
SELECT count(DISTINCT id), sum(attempts), min(started_at), max(finished_at) FROM task_history WHERE id BETWEEN CAST(%(first)s AS uuid) AND CAST(%(last)s AS uuid) AND status = 'completed';

-- name: span_without_history
-- Nothing is left that was started; a trace of each.
SELECT count(DISTINCT one.id), count(*), NULL, max(t.ended_at) FROM task_traces t CROSS JOIN unnest(t.ids) AS one(id)
WHERE one.id BETWEEN CAST(%(first)s AS uuid) AND CAST(%(last)s AS uuid);

-- name: bare_insert
INSERT INTO tasks (id, type) VALUES (%(id)s, 'bench:bare');

-- name: bare_copy
COPY tasks (id, type) FROM STDIN

-- name: clients
-- Who is connected to this database, but for whoever asks.
SELECT pid, application_name FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend';

-- name: counted
-- Exact at once, unlike the statistics views, to which a session adds its counts about once a second. A transaction that
-- writes takes one number, and none of ours has a savepoint.
SELECT pg_current_wal_insert_lsn() - CAST('0/0' AS pg_lsn), CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint);

-- name: create_echo
CREATE TABLE bench_echo (n bigint);

-- name: write_echo
INSERT INTO bench_echo (n) VALUES (%(n)s);

-- name: ring_echo
SELECT pg_notify('bench_echo', '');

-- name: listen_echo
LISTEN bench_echo;

-- name: read_echo
SELECT max(n) FROM bench_echo;

-- name: drop_echo
DROP TABLE bench_echo;

-- name: take_echo
DELETE FROM bench_echo RETURNING n;
