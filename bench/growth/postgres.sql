-- Fills the tables as months of work would have, and looks at what they have become. Ids are as the library makes them: the
-- time in milliseconds first, so that rows of one time stand together in every index.

-- name: add_history_days
SELECT add_history_day(current_date - n) FROM generate_series(0, 6) n;

-- name: fill_history
-- Completed tasks of the last six days, oldest first.
INSERT INTO task_history (id, type, queue, status, priority, args, attempts, max_attempts, fence, worker_id, enqueued_at, run_at,
                          started_at, finished_at, duration_s, updated_at)
SELECT CAST(lpad(to_hex(CAST(extract(epoch FROM at) * 1000 AS bigint)), 12, '0') || '7'
            || substr(md5(CAST(n AS text)), 1, 3) || '8' || substr(md5('history' || n), 1, 15) AS uuid),
       'mail:send', (ARRAY['default', 'mail', 'reports'])[1 + mod(n, 3)], 'completed', 0,
       json_build_object('user_id', n, 'language', 'en', 'template', 'welcome'), 1, 5, 1, 'host-4021-1b2c3d',
       at, at, at + interval '20 ms', at + interval '120 ms', 0.1, at + interval '120 ms'
FROM (SELECT n, now() - interval '6 days' + (interval '6 days' - interval '1 hour') * (n / CAST(%(rows)s AS double precision)) AS at
      FROM generate_series(CAST(%(first)s AS bigint), CAST(%(last)s AS bigint)) n) given;

-- name: fill_future
-- Tasks that are due tomorrow and later, in the lane that is drained.
INSERT INTO tasks (id, type, queue, priority, args, enqueued_at, run_at, updated_at)
SELECT CAST(lpad(to_hex(CAST(extract(epoch FROM at) * 1000 AS bigint)), 12, '0') || '7'
            || substr(md5(CAST(n AS text)), 1, 3) || '8' || substr(md5('future' || n), 1, 15) AS uuid),
       'bench:noop', 'default', 0, json_build_object('user_id', n, 'language', 'en'),
       at, now() + interval '1 day' + n * interval '10 ms', at
FROM (SELECT n, now() - interval '6 days' + (interval '6 days' - interval '1 hour') * (n / CAST(%(rows)s AS double precision)) AS at
      FROM generate_series(CAST(%(first)s AS bigint), CAST(%(last)s AS bigint)) n) given;

-- name: settle
VACUUM (ANALYZE);

-- name: done
SELECT coalesce(sum(n), 0) FROM departures;

-- name: claims
-- How many claims took how long, by upper bound, all workers together.
SELECT labels, sum(value) FROM counters WHERE name = 'task_claim_duration_seconds_bucket' GROUP BY labels;

-- name: pending
SELECT count(*) FROM tasks WHERE status = 'pending' AND due_at <= now();

-- name: sizes
-- Bytes of the live table, of its indexes, of all of the history; dead rows of the live table.
SELECT pg_table_size('tasks'), pg_indexes_size('tasks'),
       (SELECT coalesce(sum(pg_total_relation_size(relid)), 0) FROM pg_partition_tree('task_history')),
       (SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'tasks');

-- name: pin
-- A snapshot that nobody lets go: no dead row is removed meanwhile.
SELECT count(*) FROM queues;

-- name: waits
-- For what claimers wait at this moment, with which statement by how it begins, and how many there are.
SELECT coalesce(wait_event_type || ': ' || wait_event, 'works'),
       CASE WHEN query LIKE 'WITH lane AS%%' THEN 'claim' WHEN query SIMILAR TO 'WITH (gone|given) AS%%' THEN 'end' ELSE 'other' END,
       count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE %(who)s AND state = 'active'
GROUP BY 1, 2;

-- name: pin_sees
-- What a snapshot shows of the live table.
SELECT count(*) FROM tasks;
