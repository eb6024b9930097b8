-- Every query of the PostgreSQL store. Parameters are :names, casts are written CAST(x AS t) so that the enqueue query also
-- runs through SQLAlchemy's text(). :now is NULL except in tests: then the database's clock decides.

-- ---------------------------------------------------------------- transactions

-- name: bounds
-- For every transaction: nothing of ours waits for ever, and a client that froze in the middle frees its locks.
-- Set for the session once. Behind a transaction pooler set locally, with every transaction (:here_only).
SELECT set_config('statement_timeout', :statement_timeout, CAST(:here_only AS boolean)),
       set_config('lock_timeout', :lock_timeout, CAST(:here_only AS boolean)),
       set_config('idle_in_transaction_session_timeout', :idle_timeout, CAST(:here_only AS boolean));

-- name: pinned_bounds
-- For the hot path: one plan, by index, whatever ANALYZE saw last (an empty queue, usually).
SELECT set_config('statement_timeout', :statement_timeout, CAST(:here_only AS boolean)),
       set_config('lock_timeout', :lock_timeout, CAST(:here_only AS boolean)),
       set_config('idle_in_transaction_session_timeout', :idle_timeout, CAST(:here_only AS boolean)),
       set_config('plan_cache_mode', 'force_generic_plan', CAST(:here_only AS boolean)),
       set_config('enable_seqscan', 'off', CAST(:here_only AS boolean)),
       set_config('enable_bitmapscan', 'off', CAST(:here_only AS boolean)),
       set_config('enable_hashjoin', 'off', CAST(:here_only AS boolean)),
       set_config('enable_mergejoin', 'off', CAST(:here_only AS boolean)),
       set_config('jit', 'off', CAST(:here_only AS boolean));

-- name: unpinned_bounds
-- For a transaction in a session that is pinned: plans as ever.
SELECT set_config('statement_timeout', :statement_timeout, CAST(:here_only AS boolean)),
       set_config('lock_timeout', :lock_timeout, CAST(:here_only AS boolean)),
       set_config('idle_in_transaction_session_timeout', :idle_timeout, CAST(:here_only AS boolean)),
       set_config('plan_cache_mode', NULL, CAST(:here_only AS boolean)),
       set_config('enable_seqscan', NULL, CAST(:here_only AS boolean)),
       set_config('enable_bitmapscan', NULL, CAST(:here_only AS boolean)),
       set_config('enable_hashjoin', NULL, CAST(:here_only AS boolean)),
       set_config('enable_mergejoin', NULL, CAST(:here_only AS boolean)),
       set_config('jit', NULL, CAST(:here_only AS boolean));

-- name: lift_bounds
SELECT set_config('statement_timeout', NULL, true),
       set_config('lock_timeout', NULL, true),
       set_config('idle_in_transaction_session_timeout', NULL, true);

-- name: now
SELECT coalesce(CAST(:now AS timestamptz), clock_timestamp());

-- ---------------------------------------------------------------- producers

-- name: enqueue
-- :rows is a JSON array. What comes back was stored; the rest met an unfinished task with its unique key, or
-- themselves: the same batch is sent again when the answer to the first was lost. A task of that id that has ended since is
-- looked for from the moment that the oldest id (a UUID version 7) was made, less a day for clocks. That moment is :since and
-- not a matter of the rows, so that the server opens no partition of other days: opening them was most of the work of one row.
-- Rings only when a claimer has said that it sleeps: a NOTIFY takes a database-wide lock at commit.
WITH given AS (
  SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS g(
    id uuid, type text, queue text, priority smallint, args json, max_attempts integer, timeout_s double precision,
    delay_s double precision, run_at timestamptz, unique_key text, tags json, meta json, at timestamptz)
), past AS MATERIALIZED (
  SELECT {some_ended} AS may_be
), stored AS (
  INSERT INTO tasks (id, type, queue, priority, args, max_attempts, timeout_s, unique_key, tags, meta,
                     enqueued_at, run_at, updated_at)
  SELECT id, type, queue, priority, args, max_attempts, timeout_s, unique_key, tags, meta,
         coalesce(at, statement_timestamp()),
         coalesce(coalesce(at, statement_timestamp()) + make_interval(secs => delay_s), run_at, at, statement_timestamp()),
         coalesce(at, statement_timestamp())
  FROM given
  -- OFFSET 0: one look by the key for each id, never a join. Of a day that has just begun the server believes that it is empty,
  -- and a join planned then would read all of that day for every row until the day is analysed.
  WHERE NOT (SELECT may_be FROM past) OR NOT (EXISTS (
    SELECT 1 FROM task_history h WHERE h.id = given.id
      AND h.finished_at >= to_timestamp(CAST(:since AS double precision))
      AND h.finished_at < coalesce(CAST(:now AS timestamptz), statement_timestamp()) + interval '1 day' OFFSET 0)
    OR EXISTS (
    SELECT 1 FROM task_traces c WHERE c.last_id >= given.id AND c.first_id <= given.id AND given.id = ANY (c.ids) OFFSET 0))
  ON CONFLICT DO NOTHING
  RETURNING id, run_at > enqueued_at AS later
), rung AS MATERIALIZED (
  -- A notification queue that nobody empties makes commits fail when it is full: stay far away from that.
  SELECT pg_notify('shiftboss', '') AS done
  WHERE EXISTS (SELECT 1 FROM stored WHERE NOT later) AND EXISTS (SELECT 1 FROM workers WHERE sleeping)
    AND pg_notification_queue_usage() < 0.25
)
SELECT CAST(stored.id AS text) FROM stored LEFT JOIN rung ON true;

-- name: enqueue_one
-- One task whose id was made for this very call: nobody can have sent it before, so the history is not asked. All values come as
-- text, so that this is one prepared statement whichever of them are NULL. It rings as above, and only for what is due.
INSERT INTO tasks (id, type, queue, priority, args, max_attempts, timeout_s, unique_key, tags, meta,
                   enqueued_at, run_at, updated_at)
VALUES (
  CAST(:id AS uuid), :type, :queue, CAST(:priority AS smallint), CAST(:args AS json), CAST(:max_attempts AS integer),
  CAST(:timeout_s AS double precision), :unique_key, CAST(:tags AS json), CAST(:meta AS json),
  coalesce(CAST(:now AS timestamptz), statement_timestamp()),
  coalesce(
    coalesce(CAST(:now AS timestamptz), statement_timestamp()) + make_interval(secs => CAST(:delay_s AS double precision)),
    CAST(:run_at AS timestamptz), CAST(:now AS timestamptz), statement_timestamp()),
  coalesce(CAST(:now AS timestamptz), statement_timestamp()))
ON CONFLICT DO NOTHING
RETURNING CAST(id AS text), CASE WHEN run_at <= enqueued_at THEN (
  SELECT CAST(pg_notify('shiftboss', '') AS text) FROM workers WHERE sleeping AND pg_notification_queue_usage() < 0.25 LIMIT 1) END;

-- name: copy_tasks
-- Many at once, in the binary form; see copying.py.
COPY tasks (id, args, type, queue, priority, max_attempts, timeout_s, tags, meta, run_at, enqueued_at, updated_at)
FROM STDIN (FORMAT binary);

-- name: some_ended
-- Whether a task can have ended whose id is between these. Ids are in the order of their time. The first one in that order is asked
-- for: by an index, also where a plan was made while the next day was empty and is run when that has filled.
(SELECT h.id FROM task_history h WHERE h.id BETWEEN CAST(:first AS uuid) AND CAST(:last AS uuid)
   AND h.finished_at >= to_timestamp(CAST(:since AS double precision))
   AND h.finished_at < coalesce(CAST(:now AS timestamptz), statement_timestamp()) + interval '1 day'
 ORDER BY h.id LIMIT 1) IS NOT NULL
OR (SELECT c.last_id FROM task_traces c WHERE c.last_id >= CAST(:first AS uuid) AND c.first_id <= CAST(:last AS uuid)
    ORDER BY c.last_id LIMIT 1) IS NOT NULL;

-- name: any_ended_between
SELECT {some_ended};

-- name: ended_meanwhile
-- Which of the ids in the JSON array :ids belong to tasks that have ended. Asked after they were stored, by a statement of its
-- own: what was about to end them was waited for, and is not seen by the one that waited. Those that were not stored are named,
-- too, so that it can be sent before it is known which were. OFFSET 0 as above.
WITH past AS MATERIALIZED (
  SELECT {some_ended} AS may_be
)
SELECT CAST(g.id AS text) FROM (SELECT CAST(value AS uuid) AS id FROM json_array_elements_text(CAST(:ids AS json))) AS g
WHERE (SELECT may_be FROM past) AND (EXISTS (
  SELECT 1 FROM task_history h WHERE h.id = g.id
    AND h.finished_at >= to_timestamp(CAST(:since AS double precision))
    AND h.finished_at < coalesce(CAST(:now AS timestamptz), statement_timestamp()) + interval '1 day' OFFSET 0)
OR EXISTS (
  SELECT 1 FROM task_traces c WHERE c.last_id >= g.id AND c.first_id <= g.id AND g.id = ANY (c.ids) OFFSET 0));

-- name: find_existing
-- Its own id first, alive or ended: whoever sends a batch again means that task, whoever has its unique key by now. The
-- history is searched from the moment that the id was made, as above.
SELECT CAST(g.id AS text), CAST(coalesce(t.id, (
    SELECT h.id FROM task_history h WHERE h.id = g.id
      AND h.finished_at >= to_timestamp(
            CAST(CAST('x' || left(replace(CAST(g.id AS text), '-', ''), 12) AS bit(48)) AS bigint) / 1000.0 - 86400)
    LIMIT 1), (
    SELECT g.id FROM task_traces c WHERE c.last_id >= g.id AND c.first_id <= g.id AND g.id = ANY (c.ids) LIMIT 1), k.id) AS text)
FROM json_to_recordset(CAST(:rows AS json)) AS g(id uuid, unique_key text)
LEFT JOIN tasks k ON k.unique_key = g.unique_key AND k.dead_at IS NULL
LEFT JOIN tasks t ON t.id = g.id;

-- name: get_task
SELECT {task_columns}, {task_bodies} FROM tasks t WHERE id = CAST(:id AS uuid)
UNION ALL
SELECT {history_columns}, {history_bodies} FROM task_history h WHERE id = CAST(:id AS uuid);

-- name: get_task_bare
SELECT {task_columns}, {no_bodies} FROM tasks t WHERE id = CAST(:id AS uuid)
UNION ALL
SELECT {history_columns}, {no_bodies} FROM task_history h WHERE id = CAST(:id AS uuid);

-- name: has_trace
SELECT EXISTS (
  SELECT 1 FROM task_traces c
  WHERE c.last_id >= CAST(:id AS uuid) AND c.first_id <= CAST(:id AS uuid) AND CAST(:id AS uuid) = ANY (c.ids));

-- name: get_attempts
SELECT CAST(task_id AS text), fence, attempt, outcome, ended_at, worker_id, started_at, duration_s, error, traceback
FROM task_attempts WHERE task_id = CAST(:id AS uuid) ORDER BY fence;

-- ---------------------------------------------------------------- the claimer

-- name: lanes
-- A loose index scan: from one (queue, priority) straight to the next, so the cost is the number of lanes, not of tasks. Of each
-- it meets what is due first.
WITH RECURSIVE lane AS (
  (SELECT queue, priority, due_at FROM tasks WHERE dead_at IS NULL AND status = 'pending' ORDER BY queue, priority DESC, due_at LIMIT 1)
  UNION ALL
  SELECT next.queue, next.priority, next.due_at
  FROM lane CROSS JOIN LATERAL (
    (SELECT t.queue, t.priority, t.due_at FROM tasks t
     WHERE t.dead_at IS NULL AND t.status = 'pending' AND t.queue = lane.queue AND t.priority < lane.priority
     ORDER BY t.queue, t.priority DESC, t.due_at LIMIT 1)
    UNION ALL
    (SELECT t.queue, t.priority, t.due_at FROM tasks t
     WHERE t.dead_at IS NULL AND t.status = 'pending' AND t.queue > lane.queue
     ORDER BY t.queue, t.priority DESC, t.due_at LIMIT 1)
    LIMIT 1
  ) next
)
SELECT lane.queue, lane.priority, q.concurrency, coalesce(q.weight, 1),
  CAST(extract(epoch FROM lane.due_at) AS double precision)
FROM lane LEFT JOIN queues q ON q.name = lane.queue
WHERE NOT coalesce(q.paused, false) AND (CAST(:queues AS text[]) IS NULL OR lane.queue = ANY (CAST(:queues AS text[])))
ORDER BY lane.priority DESC, lane.queue;

-- name: asked_lanes
-- The lanes that a claim names, in their order; without those of queues that were paused since the claimer read the lanes, or if it
-- has not read them, limited; none where it is another's turn.
SELECT * FROM unnest(CAST(:queues AS text[]), CAST(:priorities AS smallint[]), CAST(:limits AS integer[]),
                       CAST(:sinces AS double precision[])) AS l(queue, priority, most, since)
  WHERE NOT coalesce((SELECT q.paused OR (CAST(:unread AS boolean) AND q.concurrency IS NOT NULL)
                      FROM queues q WHERE q.name = l.queue COLLATE "C"), false)
    AND coalesce(current_setting('shiftboss.turn', true), '') <> 'false'

-- name: take_turn
-- Until the commit. Nobody ever waits for one: what a claim finds in the setting is whether it has it. A statement before the
-- claim, which so sees all that was claimed in the turn before.
SELECT CAST(set_config('shiftboss.turn', CASE WHEN pg_try_advisory_xact_lock(
    CAST(CAST(CAST('tasks' AS regclass) AS oid) AS integer), hashtext(:lane)) THEN 'true' ELSE 'false' END, true) AS boolean),
  (SELECT count(*) < 2 FROM workers);

-- name: claim
-- Lane by lane in the order given. The outer LIMIT stops the nested loop, so no row more is locked than is claimed; without
-- MATERIALIZED the planner may run the choice again for every row.
WITH lane AS (
  {asked_lanes}
), chosen AS MATERIALIZED (
  SELECT picked.id, picked.spot, lane.queue, lane.priority, picked.due_at FROM lane CROSS JOIN LATERAL (
    SELECT t.id, t.ctid AS spot, t.due_at FROM tasks t
    WHERE t.queue = lane.queue COLLATE "C" AND t.priority = lane.priority AND t.dead_at IS NULL AND t.status = 'pending'
      AND t.due_at <= coalesce(CAST(:now AS timestamptz), statement_timestamp())
      AND t.due_at >= coalesce(to_timestamp(lane.since), '-infinity')
      AND t.type = ANY (CAST(:types AS text[]))
    ORDER BY t.due_at, t.id LIMIT lane.most FOR UPDATE SKIP LOCKED
  ) picked LIMIT CAST(:most AS integer)
), placed AS (
  SELECT id, spot, row_number() OVER () AS place FROM chosen
), reached AS (
  {reach_chosen}
)
{claim_chosen};

-- name: claim_fifo
-- The oldest due over all lanes. Candidates are read first, without locks, and more than wanted: others may be taking them.
WITH lane AS (
  {asked_lanes}
), candidate AS MATERIALIZED (
  SELECT found.id, found.due_at FROM lane CROSS JOIN LATERAL (
    SELECT t.id, t.due_at FROM tasks t
    WHERE t.queue = lane.queue COLLATE "C" AND t.priority = lane.priority AND t.dead_at IS NULL AND t.status = 'pending'
      AND t.due_at <= coalesce(CAST(:now AS timestamptz), statement_timestamp())
      AND t.due_at >= coalesce(to_timestamp(lane.since), '-infinity')
      AND t.type = ANY (CAST(:types AS text[]))
    ORDER BY t.due_at, t.id
    LIMIT CASE WHEN lane.most < CAST(:most AS integer) THEN lane.most ELSE 2 * CAST(:most AS integer) + 32 END
  ) found ORDER BY found.due_at, found.id LIMIT 2 * CAST(:most AS integer) + 32
), chosen AS MATERIALIZED (
  SELECT t.id, t.ctid AS spot, t.queue, t.priority, t.due_at FROM candidate JOIN tasks t ON t.id BETWEEN candidate.id AND candidate.id
  WHERE t.status || '' = 'pending'
  ORDER BY candidate.due_at, candidate.id LIMIT CAST(:most AS integer) FOR UPDATE OF t SKIP LOCKED
), placed AS (
  SELECT id, spot, row_number() OVER () AS place FROM chosen
), reached AS (
  {reach_chosen}
)
{claim_chosen};

-- name: claim_lifo
-- The newest due over all lanes.
WITH lane AS (
  {asked_lanes}
), candidate AS MATERIALIZED (
  SELECT found.id, found.due_at FROM lane CROSS JOIN LATERAL (
    SELECT t.id, t.due_at FROM tasks t
    WHERE t.queue = lane.queue COLLATE "C" AND t.priority = lane.priority AND t.dead_at IS NULL AND t.status = 'pending'
      AND t.due_at <= coalesce(CAST(:now AS timestamptz), statement_timestamp())
      AND t.due_at >= coalesce(to_timestamp(lane.since), '-infinity')
      AND t.type = ANY (CAST(:types AS text[]))
    ORDER BY t.due_at DESC, t.id DESC
    LIMIT CASE WHEN lane.most < CAST(:most AS integer) THEN lane.most ELSE 2 * CAST(:most AS integer) + 32 END
  ) found ORDER BY found.due_at DESC, found.id DESC LIMIT 2 * CAST(:most AS integer) + 32
), chosen AS MATERIALIZED (
  SELECT t.id, t.ctid AS spot, t.queue, t.priority, t.due_at FROM candidate JOIN tasks t ON t.id BETWEEN candidate.id AND candidate.id
  WHERE t.status || '' = 'pending'
  ORDER BY candidate.due_at DESC, candidate.id DESC LIMIT CAST(:most AS integer) FOR UPDATE OF t SKIP LOCKED
), placed AS (
  SELECT id, spot, row_number() OVER () AS place FROM chosen
), reached AS (
  {reach_chosen}
)
{claim_chosen};

-- name: reach_chosen
-- Where what is claimed can be found again: no index says who holds a task. What was chosen and not had does no harm.
INSERT INTO claim_ranges AS r (worker_id, queue, priority, period, first_due, last_due)
  SELECT :worker_id, queue, priority, CAST(extract(epoch FROM coalesce(CAST(:now AS timestamptz), statement_timestamp())) AS bigint) / 5,
    min(due_at), max(due_at)
  FROM chosen GROUP BY queue, priority ORDER BY queue COLLATE "C", priority
  ON CONFLICT (worker_id, queue, priority, period) DO UPDATE SET
    first_due = least(r.first_due, excluded.first_due), last_due = greatest(r.last_due, excluded.last_due), claims = r.claims + 1

-- name: claim_chosen
-- The common end of the claims. max_attempts makes room for one more run where an operator put a spent task back as it was.
-- The rows are locked, so where they stand (ctid) finds them for a fifth of what their key costs; one that changed between the
-- snapshot and the lock stands elsewhere, and waits for the next claim. Times go out as the server keeps them.
UPDATE tasks t SET
  status = CASE WHEN placed.place <= CAST(:running AS integer) THEN 'running' ELSE 'claimed' END,
  attempts = t.attempts + CASE WHEN placed.place <= CAST(:running AS integer) THEN 1 ELSE 0 END,
  max_attempts = greatest(coalesce(t.max_attempts,
    (CAST(:max_attempts AS integer[]))[array_position(CAST(:types AS text[]), t.type)]), t.attempts + 1),
  timeout_s = coalesce(t.timeout_s,
    (CAST(:timeouts AS double precision[]))[array_position(CAST(:types AS text[]), t.type)]),
  fence = t.fence + 1,
  worker_id = :worker_id,
  cancel_requested = false,
  progress = NULL,
  started_at = CASE WHEN placed.place <= CAST(:running AS integer)
                    THEN coalesce(CAST(:now AS timestamptz), statement_timestamp()) END,
  updated_at = coalesce(CAST(:now AS timestamptz), statement_timestamp())
FROM placed
WHERE t.ctid = placed.spot AND t.id = placed.id AND t.status || '' = 'pending'
RETURNING placed.place, CAST(t.id AS text), t.fence, t.attempts + CASE WHEN t.status = 'claimed' THEN 1 ELSE 0 END,
  t.type, t.queue, t.priority, t.args, t.max_attempts, t.timeout_s, placed.place <= CAST(:running AS integer),
  t.enqueued_at, t.due_at, CAST(t.tags AS text), CAST(t.meta AS text);

-- name: complete_tasks
-- Success. Two things are hidden from the planner, which goes by what a vacuum saw in an idle moment, an empty table perhaps:
-- the column, by `status || ''`, or it would walk a partial index, and that the keys are equal, by BETWEEN here and below, or it
-- would walk the whole of the primary key once, and all that is given for each row of it. The ids come sorted, so two writers
-- never wait for each other in a circle. What comes back are the places in the arrays of those that were stored, by type.
{move_completed}
{count_completed};

-- name: complete_tasks_anyway
-- For a row that already stands in the history, put there by hand: the first end stands. Only when the query before was
-- refused, since every row costs more this way.
{move_completed}
ON CONFLICT DO NOTHING
{count_completed};

-- name: move_completed
-- Two parts of the queries above. Not `t.*`: every column that is handed on costs.
WITH gone AS (
  DELETE FROM tasks t
  USING unnest(CAST(:ids AS uuid[]), CAST(:fences AS bigint[]), CAST(:results AS text[]),
               CAST(:starts AS double precision[]), CAST(:durations AS double precision[]))
        WITH ORDINALITY AS given(id, fence, result, told_started_at, duration_s, place)
  WHERE t.id BETWEEN given.id AND given.id AND t.fence = given.fence AND t.status || '' IN ('claimed', 'running')
  RETURNING t.id, t.type, t.queue, t.priority, t.args, t.max_attempts, t.fence, t.worker_id, t.unique_key, t.timeout_s, t.tags,
            t.meta, t.last_error, t.enqueued_at, t.run_at, t.attempts + CASE WHEN t.status = 'claimed' THEN 1 ELSE 0 END AS attempt,
            coalesce(to_timestamp(given.told_started_at), t.started_at) AS started_at, given.result, given.duration_s, given.place
), kept AS (
  INSERT INTO task_history (id, type, queue, status, priority, args, attempts, max_attempts, fence, worker_id, unique_key,
                            timeout_s, tags, meta, last_error, result, enqueued_at, run_at, started_at, finished_at,
                            duration_s, updated_at)
  SELECT id, type, queue, 'completed', priority, args, attempt, max_attempts,
         fence, worker_id, unique_key, timeout_s, tags, meta, last_error, CAST(result AS json), enqueued_at, run_at,
         started_at, coalesce(CAST(:now AS timestamptz), statement_timestamp()),
         duration_s, coalesce(CAST(:now AS timestamptz), statement_timestamp())
  FROM gone

-- name: count_completed
), stored AS MATERIALIZED (
  SELECT type, array_agg(place) AS places FROM gone GROUP BY type
), counted AS (
  INSERT INTO departures (slot, type, n) SELECT :slot, type, cardinality(places) FROM stored
  ON CONFLICT (slot, type) DO UPDATE SET n = departures.n + excluded.n
)
SELECT type, places FROM stored;

-- name: forget_completed
-- Success in a worker without a history: the row is deleted and counted, and leaves a trace with all others of its type.
WITH gone AS (
  DELETE FROM tasks t
  USING unnest(CAST(:ids AS uuid[]), CAST(:fences AS bigint[])) WITH ORDINALITY AS given(id, fence, place)
  WHERE t.id BETWEEN given.id AND given.id AND t.fence = given.fence AND t.status || '' IN ('claimed', 'running')
  RETURNING t.id, t.fence, t.type, given.place
), stored AS MATERIALIZED (
  SELECT type, array_agg(place) AS places, array_agg(id) AS ids, array_agg(fence) AS fences FROM gone GROUP BY type
), traced AS (
  INSERT INTO task_traces (first_id, last_id, ended_at, ids, fences)
  SELECT CAST(:first AS uuid), CAST(:last AS uuid), coalesce(CAST(:now AS timestamptz), statement_timestamp()), ids, fences
  FROM stored
), counted AS (
  INSERT INTO departures (slot, type, n) SELECT :slot, type, cardinality(places) FROM stored
  ON CONFLICT (slot, type) DO UPDATE SET n = departures.n + excluded.n
)
SELECT type, places FROM stored;

-- name: end_attempts
-- Every end but success, by its holder; `released` (never ran) and `lost` (its worker is gone) are written here too.
--   free:     a prefetched task handed back; nothing was charged and nothing is refunded
--   refund:   the attempt is given back, as long as the task has refunds left
--   back:     it runs again
WITH given AS (
  SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:fences AS bigint[]), CAST(:outcomes AS text[]), CAST(:errors AS text[]),
                       CAST(:tracebacks AS text[]), CAST(:retries AS double precision[]),
                       CAST(:starts AS double precision[]), CAST(:durations AS double precision[]))
         AS g(id, fence, outcome, error, traceback, retry_in_s, started_at, duration_s)
), held AS MATERIALIZED (
  SELECT t.id, t.fence, t.type, t.worker_id, t.cancel_requested, t.refunds, t.status AS was, t.last_error,
         t.started_at AS stored_started_at,
         t.attempts + CASE WHEN t.status = 'claimed' THEN 1 ELSE 0 END AS attempt,
         coalesce(t.max_attempts, CAST(:default_max_attempts AS integer)) AS max_attempts,
         given.outcome, given.error, given.traceback, given.retry_in_s, given.started_at AS told_started_at, given.duration_s
  FROM given JOIN tasks t ON t.id BETWEEN given.id AND given.id
  WHERE t.fence = given.fence AND t.status || '' IN ('claimed', 'running')
  ORDER BY given.id FOR UPDATE OF t
), priced AS (
  SELECT held.*, outcome = 'released' AND was = 'claimed' AS free,
    refunds < CAST(:max_refunds AS integer) AND (
      outcome IN ('interrupted', 'snoozed') OR (outcome = 'released' AND was = 'running')
      OR (outcome = 'lost' AND was = 'claimed')) AS refund
  FROM held
), weighed AS (
  SELECT priced.*, attempt - CASE WHEN free OR refund THEN 1 ELSE 0 END AS attempts_after,
    CASE WHEN outcome = 'cancelled' THEN false
         WHEN free OR refund THEN true
         WHEN outcome IN ('failed', 'timeout', 'crashed') THEN attempt < max_attempts AND retry_in_s IS NOT NULL
         ELSE attempt < max_attempts END AS back
  FROM priced
), judged AS MATERIALIZED (
  SELECT weighed.*,
    CASE WHEN outcome = 'cancelled' OR (back AND cancel_requested) THEN 'cancelled'
         WHEN back THEN 'pending' ELSE 'dead_letter' END AS status,
    CASE WHEN free OR refund THEN error
         WHEN outcome = 'lost' THEN coalesce(error, 'worker ' || worker_id || ' is gone; attempt ' || attempt || ' of '
           || max_attempts || ' was lost')
         WHEN outcome IN ('interrupted', 'snoozed', 'released') THEN coalesce(error || ' (' || outcome, '(' || outcome) || ': its '
           || refunds || ' refunds are used up, so this attempt counts' || CASE WHEN back THEN ')' ELSE ' and was the last one)' END
         ELSE coalesce(error, outcome) END
      AS told,
    coalesce(CAST(:now AS timestamptz), statement_timestamp()) AS at,
    coalesce(to_timestamp(told_started_at), stored_started_at) AS started_at
  FROM weighed
), gone AS (
  DELETE FROM tasks t USING judged WHERE t.id BETWEEN judged.id AND judged.id AND judged.status = 'cancelled'
  RETURNING t.*, judged.attempts_after, judged.outcome, judged.told, judged.started_at AS run_started_at, judged.duration_s,
            judged.at
), kept AS (
  INSERT INTO task_history (id, type, queue, status, priority, args, attempts, max_attempts, fence, worker_id, unique_key,
                            timeout_s, tags, meta, last_error, enqueued_at, run_at, started_at, finished_at, duration_s,
                            updated_at)
  SELECT id, type, queue, 'cancelled', priority, args, attempts_after, max_attempts, fence,
         CASE WHEN outcome NOT IN ('lost', 'released') THEN worker_id END, unique_key,
         timeout_s, tags, meta, coalesce(told, last_error), enqueued_at, run_at, run_started_at, at, duration_s, at
  FROM gone
  ON CONFLICT DO NOTHING
), counted AS (
  INSERT INTO departures (slot, type, n) SELECT :slot, type, count(*) FROM gone GROUP BY type
  ON CONFLICT (slot, type) DO UPDATE SET n = departures.n + excluded.n
), moved AS (
  UPDATE tasks t SET
    status = judged.status,
    attempts = judged.attempts_after,
    refunds = t.refunds + CASE WHEN judged.refund THEN 1 ELSE 0 END,
    worker_id = CASE WHEN judged.status = 'dead_letter' THEN t.worker_id END,
    next_retry_at = CASE
      WHEN judged.status = 'pending' AND judged.outcome IN ('failed', 'timeout', 'crashed', 'snoozed')
      THEN judged.at + make_interval(secs => least(greatest(coalesce(judged.retry_in_s, 0), 0), 3e9))
      WHEN judged.status = 'pending' AND (judged.outcome = 'released' OR judged.outcome = 'lost' AND judged.refund)
      THEN t.next_retry_at END, -- never ran: it keeps its place in the lane
    last_error = CASE WHEN judged.free OR judged.refund THEN t.last_error ELSE coalesce(judged.told, t.last_error) END,
    started_at = CASE WHEN judged.status = 'dead_letter' THEN judged.started_at END,
    cancel_requested = false,
    progress = NULL,
    updated_at = judged.at
  FROM judged WHERE t.id BETWEEN judged.id AND judged.id AND judged.status <> 'cancelled'
), logged AS (
  INSERT INTO task_attempts (task_id, fence, attempt, outcome, worker_id, started_at, ended_at, duration_s, error, traceback)
  SELECT id, fence, attempt, CASE outcome WHEN 'released' THEN 'interrupted' ELSE outcome END, worker_id, started_at, at,
         duration_s, told, traceback
  FROM judged WHERE outcome NOT IN ('released', 'lost') OR NOT (free OR refund)
  ON CONFLICT (task_id, fence) DO NOTHING -- only after a row was changed by hand; the first outcome stands
)
SELECT CAST(id AS text), fence, type, attempt, status FROM judged;

-- name: start_tasks
WITH given AS (
  SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:fences AS bigint[])) AS g(id, fence)
), held AS MATERIALIZED (
  SELECT t.id FROM given JOIN tasks t ON t.id BETWEEN given.id AND given.id
  WHERE t.fence = given.fence AND t.status || '' = 'claimed'
  ORDER BY given.id FOR UPDATE OF t
)
UPDATE tasks t SET status = 'running', attempts = t.attempts + 1,
  max_attempts = greatest(t.max_attempts, t.attempts + 1),
  started_at = coalesce(CAST(:now AS timestamptz), statement_timestamp()),
  updated_at = coalesce(CAST(:now AS timestamptz), statement_timestamp())
FROM held WHERE t.id BETWEEN held.id AND held.id;

-- name: store_progress
WITH given AS (
  SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:fences AS bigint[]), CAST(:progress AS text[])) AS g(id, fence, progress)
), held AS MATERIALIZED (
  SELECT t.id, given.progress FROM given JOIN tasks t ON t.id BETWEEN given.id AND given.id
  WHERE t.fence = given.fence AND t.status || '' IN ('claimed', 'running')
  ORDER BY given.id FOR UPDATE OF t
)
UPDATE tasks t SET progress = CAST(held.progress AS json), updated_at = coalesce(CAST(:now AS timestamptz), statement_timestamp())
FROM held WHERE t.id BETWEEN held.id AND held.id;

-- name: add_counters
INSERT INTO counters (worker_id, name, labels, value)
SELECT :worker_id, name, labels, value
FROM unnest(CAST(:names AS text[]), CAST(:labels AS text[]), CAST(:values AS double precision[])) AS g(name, labels, value)
ON CONFLICT (worker_id, name, labels) DO UPDATE SET value = counters.value + excluded.value;

-- name: fold_departures_of
WITH folded AS (
  DELETE FROM departures WHERE slot = ANY (CAST(:names AS text[])) RETURNING type, n
)
INSERT INTO departures (slot, type, n) SELECT :into, type, sum(n) FROM folded GROUP BY type
ON CONFLICT (slot, type) DO UPDATE SET n = departures.n + excluded.n;

-- name: fold_counters_of
WITH folded AS (
  DELETE FROM counters WHERE worker_id = ANY (CAST(:names AS text[])) RETURNING name, labels, value
)
INSERT INTO counters (worker_id, name, labels, value) SELECT :into, name, labels, sum(value) FROM folded GROUP BY name, labels
ON CONFLICT (worker_id, name, labels) DO UPDATE SET value = counters.value + excluded.value;

-- name: locked_tasks
-- Which of these somebody else has locked just now. Those that are free are locked by us until the end of this statement.
WITH free AS MATERIALIZED (
  SELECT id FROM tasks WHERE id = ANY (CAST(:ids AS uuid[])) FOR UPDATE SKIP LOCKED
)
SELECT CAST(id AS text) FROM tasks
WHERE id = ANY (CAST(:ids AS uuid[])) AND NOT EXISTS (SELECT 1 FROM free WHERE free.id = tasks.id);

-- name: judge_refused
-- For ends that changed nothing, in a statement of its own: only a fresh snapshot sees what an older, unknown commit of ours
-- has done. The outcome that stands there for this fence; NULL, if none does. What someone else ended is `lost` among the
-- attempts, or cancelled in the history without an attempt.
SELECT CAST(g.id AS text), g.fence,
  CASE WHEN EXISTS (SELECT 1 FROM task_history h WHERE h.id = g.id AND h.fence = g.fence AND h.status = 'completed')
    OR EXISTS (SELECT 1 FROM task_traces c WHERE c.last_id >= g.id AND c.first_id <= g.id
               AND c.fences[array_position(c.ids, g.id)] = g.fence)
  THEN 'success' ELSE (SELECT a.outcome FROM task_attempts a WHERE a.task_id = g.id AND a.fence = g.fence) END
FROM unnest(CAST(:ids AS uuid[]), CAST(:fences AS bigint[])) AS g(id, fence);

-- name: in_range
-- The tasks that a worker holds stand in the ranges of its claims.
t.queue = r.queue AND t.priority = r.priority AND t.due_at BETWEEN r.first_due AND r.last_due AND t.dead_at IS NULL
AND t.worker_id || '' = r.worker_id AND t.status || '' IN ('claimed', 'running')

-- name: owned
-- On the way the ranges are made as short as what is held, or empty. Not where a claim came meanwhile, of which this snapshot knows
-- nothing: its count tells. What was empty before goes, unless a claim has it just now. In the order of the key, as claims write
-- them, so that two never wait for each other in a circle.
WITH held AS MATERIALIZED (
  SELECT t.id, t.fence, t.status, t.cancel_requested, r.queue, r.priority, r.period, t.due_at
  FROM claim_ranges r JOIN tasks t ON {in_range} WHERE r.worker_id = :worker_id
), seen AS MATERIALIZED (
  SELECT queue, priority, period, max(claims) AS claims, min(due_at) AS first_due, max(due_at) AS last_due FROM (
    SELECT queue, priority, period, claims, NULL AS due_at FROM claim_ranges WHERE worker_id = :worker_id
    UNION ALL SELECT queue, priority, period, NULL, due_at FROM held
  ) both_ GROUP BY queue, priority, period ORDER BY queue, priority, period
), shorter AS (
  UPDATE claim_ranges r SET
    first_due = coalesce(seen.first_due, r.last_due + interval '1 microsecond'), last_due = coalesce(seen.last_due, r.last_due)
  FROM seen
  WHERE r.worker_id = :worker_id AND r.queue = seen.queue AND r.priority = seen.priority AND r.period = seen.period
    AND r.claims = seen.claims AND r.first_due < coalesce(seen.first_due, r.last_due + interval '1 microsecond')
), spare AS MATERIALIZED (
  SELECT queue, priority, period FROM claim_ranges
  WHERE worker_id = :worker_id AND first_due > last_due FOR UPDATE SKIP LOCKED
), gone AS (
  DELETE FROM claim_ranges r USING spare
  WHERE r.worker_id = :worker_id AND r.queue = spare.queue AND r.priority = spare.priority AND r.period = spare.period
)
SELECT DISTINCT ON (id) CAST(id AS text), fence, status, cancel_requested FROM held ORDER BY id;

-- name: owned_among
SELECT CAST(t.id AS text), t.fence, t.status, t.cancel_requested
FROM unnest(CAST(:ids AS uuid[])) AS given(id) JOIN tasks t ON t.id BETWEEN given.id AND given.id
WHERE t.worker_id || '' = :worker_id AND t.status || '' IN ('claimed', 'running') ORDER BY t.id;

-- name: cancel_requests
-- By an index of nothing but such requests, which is all but empty. The order is by the text of the id, or it may be a walk over
-- the whole primary key, which looks cheap to a planner that saw an empty table.
SELECT CAST(id AS text), fence FROM tasks
WHERE worker_id = :worker_id AND cancel_requested AND status || '' IN ('claimed', 'running') ORDER BY CAST(id AS text);

-- name: set_sleeping
UPDATE workers SET sleeping = :sleeping WHERE id = :worker_id;

-- ---------------------------------------------------------------- the heartbeat

-- name: register
INSERT INTO workers (id, hostname, pid, version, started_at, last_heartbeat, timeout_s, pool_size, active)
SELECT :id, :hostname, :pid, :version, at, at, :timeout_s, :pool_size, :active
FROM (SELECT coalesce(CAST(:now AS timestamptz), clock_timestamp()) AS at) clock
ON CONFLICT (id) DO UPDATE SET last_heartbeat = excluded.last_heartbeat, timeout_s = excluded.timeout_s,
  pool_size = excluded.pool_size, active = excluded.active;

-- name: remove_other_workers
DELETE FROM workers WHERE id <> :worker_id;

-- name: end_other_terms
-- A single instance has just started: the lead must not stay with its predecessor until that one's term has run out.
UPDATE leader SET expires_at = coalesce(CAST(:now AS timestamptz), clock_timestamp())
WHERE worker_id <> :worker_id AND expires_at > coalesce(CAST(:now AS timestamptz), clock_timestamp());

-- name: beat
UPDATE workers SET last_heartbeat = coalesce(CAST(:now AS timestamptz), clock_timestamp()), active = :active,
  pool_size = :pool_size, timeout_s = :timeout_s
WHERE id = :worker_id RETURNING true;

-- name: deregister
DELETE FROM workers WHERE id = :worker_id;

-- name: workers
SELECT w.id, w.hostname, w.pid, w.version, w.started_at, w.last_heartbeat, w.pool_size, w.active,
  coalesce(l.worker_id = w.id AND l.expires_at > clock.at, false),
  w.last_heartbeat + make_interval(secs => w.timeout_s) > clock.at
FROM (SELECT coalesce(CAST(:now AS timestamptz), clock_timestamp()) AS at) clock
CROSS JOIN workers w LEFT JOIN leader l ON l.name = 'main'
ORDER BY w.started_at, w.id;

-- ---------------------------------------------------------------- the leader

-- name: elect
-- A term that ends later than two of ours from now was won before the clock was set back: its holder may be dead by now.
INSERT INTO leader (name, worker_id, term, expires_at)
VALUES ('main', :worker_id, 1,
        coalesce(CAST(:now AS timestamptz), clock_timestamp()) + make_interval(secs => CAST(:term_s AS double precision)))
ON CONFLICT (name) DO UPDATE SET
  worker_id = excluded.worker_id,
  term = leader.term + CASE WHEN leader.worker_id = excluded.worker_id
    AND leader.expires_at > coalesce(CAST(:now AS timestamptz), clock_timestamp()) THEN 0 ELSE 1 END,
  expires_at = coalesce(CAST(:now AS timestamptz), clock_timestamp()) + make_interval(secs => CAST(:term_s AS double precision))
WHERE leader.worker_id = excluded.worker_id OR leader.expires_at <= coalesce(CAST(:now AS timestamptz), clock_timestamp())
  OR leader.expires_at > coalesce(CAST(:now AS timestamptz), clock_timestamp())
    + make_interval(secs => 2 * CAST(:term_s AS double precision))
RETURNING term;

-- name: leader_remaining
SELECT greatest(0, CAST(extract(epoch FROM expires_at - coalesce(CAST(:now AS timestamptz), clock_timestamp())) AS double precision))
FROM leader WHERE name = 'main';

-- name: renew
UPDATE leader SET expires_at = coalesce(CAST(:now AS timestamptz), clock_timestamp())
  + make_interval(secs => CAST(:term_s AS double precision))
WHERE name = 'main' AND worker_id = :worker_id AND term = :term
  AND expires_at > coalesce(CAST(:now AS timestamptz), clock_timestamp())
RETURNING true;

-- name: resign
UPDATE leader SET expires_at = coalesce(CAST(:now AS timestamptz), clock_timestamp())
WHERE name = 'main' AND worker_id = :worker_id AND term = :term
  AND expires_at > coalesce(CAST(:now AS timestamptz), clock_timestamp());

-- name: hold_term
-- FOR SHARE: whoever takes the lead over has to wait for this transaction. A plain read would let both write.
SELECT true FROM leader WHERE name = 'main' AND worker_id = :worker_id AND term = :term
  AND expires_at > coalesce(CAST(:now AS timestamptz), clock_timestamp()) FOR SHARE;

-- name: look_for_dead
-- Whether there is anything to recover, and when the next worker expires: one statement, since it is asked every few seconds
-- for ever and the answer is no. Nothing when the term is not ours. Only for those that then look again, with the term held.
-- Who has claimed and has no row is known by the ranges of its claims, until nothing is held there any more.
SELECT EXISTS (SELECT 1 FROM workers WHERE last_heartbeat > clock.at OR last_heartbeat + make_interval(secs => timeout_s) <= clock.at)
    OR EXISTS (SELECT 1 FROM claim_ranges r WHERE NOT EXISTS (SELECT 1 FROM workers w WHERE w.id = r.worker_id)),
  (SELECT CAST(extract(epoch FROM min(last_heartbeat + make_interval(secs => timeout_s)) - clock.at) AS double precision) FROM workers)
FROM (SELECT coalesce(CAST(:now AS timestamptz), clock_timestamp()) AS at) clock CROSS JOIN leader l
WHERE l.name = 'main' AND l.worker_id = :worker_id AND l.term = :term AND l.expires_at > clock.at;

-- name: pull_back_heartbeats
-- A database clock that was set back would keep the dead alive for as long: from now on they have one timeout.
UPDATE workers SET last_heartbeat = coalesce(CAST(:now AS timestamptz), clock_timestamp())
WHERE last_heartbeat > coalesce(CAST(:now AS timestamptz), clock_timestamp());

-- name: remove_expired_workers
DELETE FROM workers
WHERE last_heartbeat + make_interval(secs => timeout_s) <= coalesce(CAST(:now AS timestamptz), clock_timestamp())
RETURNING id;

-- name: next_expiry
SELECT CAST(extract(epoch FROM min(last_heartbeat + make_interval(secs => timeout_s))
                    - coalesce(CAST(:now AS timestamptz), clock_timestamp())) AS double precision)
FROM workers;

-- name: orphans
-- Leased by a worker that has no row. :after goes past those that could not be recovered. By the text of the id, as above.
WITH found AS MATERIALIZED (
  SELECT DISTINCT t.id, r.worker_id FROM claim_ranges r JOIN tasks t ON {in_range}
  WHERE NOT EXISTS (SELECT 1 FROM workers w WHERE w.id = r.worker_id)
)
{lock_found} SKIP LOCKED;

-- name: held_by_others
WITH found AS MATERIALIZED (
  SELECT DISTINCT t.id, r.worker_id FROM claim_ranges r JOIN tasks t ON {in_range} WHERE r.worker_id <> :worker_id
)
{lock_found};

-- name: lock_found
SELECT CAST(t.id AS text), t.fence FROM found JOIN tasks t ON t.id BETWEEN found.id AND found.id
WHERE t.worker_id || '' = found.worker_id AND t.status || '' IN ('claimed', 'running')
  AND CAST(t.id AS text) COLLATE "C" > :after
ORDER BY CAST(t.id AS text) COLLATE "C" LIMIT CAST(:most AS integer) FOR UPDATE OF t

-- name: forget_ranges
-- Those of workers that have no row and hold nothing. Not where one that was frozen has just claimed: its count tells.
WITH seen AS MATERIALIZED (
  SELECT r.worker_id, r.queue, r.priority, r.period, r.claims FROM claim_ranges r
  WHERE NOT EXISTS (SELECT 1 FROM workers w WHERE w.id = r.worker_id)
    AND NOT EXISTS (SELECT 1 FROM tasks t WHERE {in_range} OFFSET 0)
  ORDER BY r.worker_id, r.queue, r.priority, r.period
)
DELETE FROM claim_ranges r USING seen
WHERE r.worker_id = seen.worker_id AND r.queue = seen.queue AND r.priority = seen.priority AND r.period = seen.period
  AND r.claims = seen.claims;

-- name: cover_leased
-- Whatever is leased stands in a range of its worker, also where no claim of ours has leased it: workers of a version that knew no
-- ranges while the schema was brought up to date, a hand. It reads so many tasks from :after on, and says how far it came.
WITH page AS MATERIALIZED (
  SELECT id, status, worker_id, queue, priority, due_at FROM tasks
  WHERE id > CAST(:after AS uuid) ORDER BY id LIMIT CAST(:most AS integer)
), leased AS (
  SELECT worker_id, queue, priority, min(due_at) AS first_due, max(due_at) AS last_due FROM page
  WHERE status IN ('claimed', 'running') GROUP BY worker_id, queue, priority
), covered AS (
  INSERT INTO claim_ranges AS r (worker_id, queue, priority, period, first_due, last_due)
  SELECT worker_id, queue, priority, 0, first_due, last_due FROM leased
  WHERE NOT EXISTS (SELECT 1 FROM claim_ranges c
                    WHERE c.worker_id = leased.worker_id AND c.queue = leased.queue AND c.priority = leased.priority
                      AND c.first_due <= leased.first_due AND c.last_due >= leased.last_due)
  ORDER BY worker_id, queue, priority
  ON CONFLICT (worker_id, queue, priority, period) DO UPDATE SET
    first_due = least(r.first_due, excluded.first_due), last_due = greatest(r.last_due, excluded.last_due), claims = r.claims + 1
)
SELECT CAST(id AS text) FROM page ORDER BY id OFFSET CAST(:most AS integer) - 1;

-- name: fold_departures
WITH folded AS (
  DELETE FROM departures
  WHERE slot <> '' AND NOT EXISTS (SELECT 1 FROM workers w WHERE w.id = slot OR starts_with(slot, w.id || '/'))
  RETURNING type, n
)
INSERT INTO departures (slot, type, n) SELECT '', type, sum(n) FROM folded GROUP BY type
ON CONFLICT (slot, type) DO UPDATE SET n = departures.n + excluded.n;

-- name: forget_counters
DELETE FROM counters
WHERE NOT EXISTS (SELECT 1 FROM workers w WHERE w.id = counters.worker_id OR starts_with(counters.worker_id, w.id || '/'));

-- name: prune_dead_letters
WITH old AS (
  SELECT id FROM tasks WHERE dead_at < coalesce(CAST(:now AS timestamptz), clock_timestamp()) - make_interval(secs => CAST(:keep_s AS double precision))
  ORDER BY dead_at LIMIT CAST(:most AS integer) FOR UPDATE SKIP LOCKED
), gone AS (
  DELETE FROM tasks t USING old WHERE t.id = old.id RETURNING t.id, t.type
), attempts AS (
  DELETE FROM task_attempts a USING gone WHERE a.task_id = gone.id
), counted AS (
  INSERT INTO departures (slot, type, n) SELECT :slot, type, count(*) FROM gone GROUP BY type
  ON CONFLICT (slot, type) DO UPDATE SET n = departures.n + excluded.n
)
SELECT count(*) FROM gone;

-- name: prune_attempts
-- Attempts of tasks that left with their partition.
WITH old AS (
  SELECT task_id, fence FROM task_attempts a
  WHERE ended_at < coalesce(CAST(:now AS timestamptz), clock_timestamp()) - make_interval(secs => CAST(:keep_s AS double precision))
    AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.id = a.task_id)
  ORDER BY ended_at LIMIT CAST(:most AS integer)
)
DELETE FROM task_attempts a USING old WHERE a.task_id = old.task_id AND a.fence = old.fence;

-- name: prune_traces
WITH old AS (
  SELECT ctid AS spot FROM task_traces
  WHERE ended_at < coalesce(CAST(:now AS timestamptz), clock_timestamp()) - make_interval(secs => CAST(:keep_s AS double precision))
  LIMIT CAST(:most AS integer)
)
DELETE FROM task_traces c USING old WHERE c.ctid = old.spot;

-- name: partitions
-- Its bounds stand in a partition's name. Its second column is the planner's count of rows: 0 or -1
-- when nobody has counted yet.
SELECT c.relname, CAST(c.reltuples AS bigint) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = CAST('task_history' AS regclass) ORDER BY c.relname;

-- name: add_history_day
-- Nothing when it is there, or when the default partition has rows of that day.
SELECT add_history_day(CAST(:day AS date));

-- name: drop_history_day
SELECT drop_history_day(CAST(:day AS date));

-- name: prune_history
WITH old AS (
  SELECT id, finished_at FROM task_history
  WHERE status = :status
    AND finished_at < coalesce(CAST(:now AS timestamptz), clock_timestamp()) - make_interval(secs => CAST(:keep_s AS double precision))
  LIMIT CAST(:most AS integer) FOR UPDATE SKIP LOCKED
), gone AS (
  DELETE FROM task_history h USING old WHERE h.id = old.id AND h.finished_at = old.finished_at RETURNING h.id
), attempts AS (
  DELETE FROM task_attempts a USING gone WHERE a.task_id = gone.id
)
SELECT count(*) FROM gone;

-- name: prune_default_history
WITH gone AS (
  DELETE FROM task_history_default
  WHERE status = :status
    AND finished_at < coalesce(CAST(:now AS timestamptz), clock_timestamp()) - make_interval(secs => CAST(:keep_s AS double precision))
    AND id IN (SELECT id FROM task_history_default
               WHERE status = :status AND finished_at < coalesce(CAST(:now AS timestamptz), clock_timestamp())
                 - make_interval(secs => CAST(:keep_s AS double precision))
               LIMIT CAST(:most AS integer))
  RETURNING id
), attempts AS (
  DELETE FROM task_attempts a USING gone WHERE a.task_id = gone.id
)
SELECT count(*) FROM gone;

-- name: clear_results
WITH old AS (
  SELECT id, finished_at FROM task_history
  WHERE result IS NOT NULL
    AND finished_at < coalesce(CAST(:now AS timestamptz), clock_timestamp()) - make_interval(secs => CAST(:keep_s AS double precision))
  ORDER BY finished_at LIMIT CAST(:most AS integer) FOR UPDATE SKIP LOCKED
)
UPDATE task_history h SET result = NULL FROM old WHERE h.id = old.id AND h.finished_at = old.finished_at;

-- name: counts
-- One statement, so one snapshot: the figures belong together.
WITH alive AS MATERIALIZED (
  SELECT type, count(*) AS n, count(*) FILTER (WHERE status = 'pending') AS pending,
         count(*) FILTER (WHERE status = 'running') AS running
  FROM tasks GROUP BY type
), ever AS (
  SELECT type, sum(n) AS n FROM (SELECT type, n FROM alive UNION ALL SELECT type, n FROM departures) both_ GROUP BY type
), clock AS (
  SELECT coalesce(CAST(:now AS timestamptz), clock_timestamp()) AS at
)
SELECT 'pending', type, CAST(pending AS bigint) FROM alive WHERE pending > 0
UNION ALL SELECT 'running', type, CAST(running AS bigint) FROM alive WHERE running > 0
UNION ALL SELECT 'enqueued', type, CAST(n AS bigint) FROM ever
UNION ALL SELECT 'workers', '', count(*) FROM workers, clock WHERE last_heartbeat + make_interval(secs => timeout_s) > clock.at
UNION ALL SELECT 'leader', worker_id, term FROM leader, clock WHERE expires_at > clock.at;

-- name: counters
-- A worker whose exchanges go on beside each other has rows of its own for each (`worker id/n`).
SELECT name, labels, sum(value) FROM counters
WHERE worker_id = CAST(:worker_id AS text) OR starts_with(worker_id, CAST(:worker_id AS text) || '/')
GROUP BY name, labels ORDER BY name, labels;

-- name: unknown_types
SELECT type, count(*) FROM tasks WHERE status = 'pending' AND NOT (type = ANY (CAST(:known AS text[]))) GROUP BY type;

-- ---------------------------------------------------------------- operators

-- name: which
-- The filter of every operator's query; a NULL matches everything.
(CAST(:ids AS uuid[]) IS NULL OR id = ANY (CAST(:ids AS uuid[])))
AND (CAST(:status AS text) IS NULL OR status = CAST(:status AS text))
AND (CAST(:type AS text) IS NULL OR type = CAST(:type AS text))
AND (CAST(:queue AS text) IS NULL OR queue = CAST(:queue AS text) COLLATE "C")
AND (CAST(:worker_id AS text) IS NULL OR worker_id = CAST(:worker_id AS text))
AND (CAST(:tag AS text) IS NULL OR CAST(tags AS jsonb) ? CAST(:tag AS text))

-- name: task_columns
CAST(t.id AS text), t.type, t.queue, t.status, t.priority, t.attempts, t.max_attempts, t.fence,
t.enqueued_at, t.run_at, t.updated_at, t.worker_id, t.last_error, t.next_retry_at, t.started_at, NULL::timestamptz,
NULL::double precision, t.unique_key, t.timeout_s, t.cancel_requested, CAST(t.tags AS text)

-- name: task_bodies
CAST(t.args AS text), NULL, CAST(t.progress AS text), CAST(t.meta AS text)

-- name: history_columns
CAST(h.id AS text), h.type, h.queue, h.status, h.priority, h.attempts, h.max_attempts, h.fence,
h.enqueued_at, h.run_at, h.updated_at, h.worker_id, h.last_error, NULL, h.started_at, h.finished_at,
h.duration_s, h.unique_key, h.timeout_s, false, CAST(h.tags AS text)

-- name: history_bodies
CAST(h.args AS text), CAST(h.result AS text), NULL, CAST(h.meta AS text)

-- name: no_bodies
-- For a role that may not read them.
NULL, NULL, NULL, NULL

-- name: list_tasks
(SELECT {task_columns}, {task_bodies} FROM tasks t
 WHERE {which} AND (CAST(:before AS uuid) IS NULL OR id < CAST(:before AS uuid)) ORDER BY id DESC LIMIT CAST(:most AS integer))
UNION ALL
(SELECT {history_columns}, {history_bodies} FROM task_history h
 WHERE {which} AND (CAST(:before AS uuid) IS NULL OR id < CAST(:before AS uuid)) ORDER BY id DESC LIMIT CAST(:most AS integer))
ORDER BY 1 DESC LIMIT CAST(:most AS integer);

-- name: list_tasks_bare
(SELECT {task_columns}, {no_bodies} FROM tasks t
 WHERE {which} AND (CAST(:before AS uuid) IS NULL OR id < CAST(:before AS uuid)) ORDER BY id DESC LIMIT CAST(:most AS integer))
UNION ALL
(SELECT {history_columns}, {no_bodies} FROM task_history h
 WHERE {which} AND (CAST(:before AS uuid) IS NULL OR id < CAST(:before AS uuid)) ORDER BY id DESC LIMIT CAST(:most AS integer))
ORDER BY 1 DESC LIMIT CAST(:most AS integer);

-- name: status_counts
SELECT type, status, count(*) FROM tasks GROUP BY type, status
UNION ALL
SELECT type, status, count(*) FROM task_history GROUP BY type, status;

-- name: cancel
WITH held AS MATERIALIZED (
  SELECT id, status FROM tasks
  WHERE status IN ('pending', 'claimed', 'running') AND {which} AND id > CAST(:after AS uuid)
  ORDER BY id LIMIT CAST(:most AS integer) FOR UPDATE
), gone AS (
  DELETE FROM tasks t USING held WHERE t.id = held.id AND held.status = 'pending' RETURNING t.*
), kept AS (
  INSERT INTO task_history (id, type, queue, status, priority, args, attempts, max_attempts, fence, unique_key,
                            timeout_s, tags, meta, last_error, enqueued_at, run_at, started_at, finished_at, updated_at)
  SELECT id, type, queue, 'cancelled', priority, args, attempts, max_attempts, fence, unique_key, timeout_s, tags, meta,
         last_error, enqueued_at, run_at, started_at, coalesce(CAST(:now AS timestamptz), statement_timestamp()),
         coalesce(CAST(:now AS timestamptz), statement_timestamp())
  FROM gone
  ON CONFLICT DO NOTHING
), counted AS (
  INSERT INTO departures (slot, type, n) SELECT :slot, type, count(*) FROM gone GROUP BY type
  ON CONFLICT (slot, type) DO UPDATE SET n = departures.n + excluded.n
), asked AS (
  UPDATE tasks t SET cancel_requested = true, updated_at = coalesce(CAST(:now AS timestamptz), statement_timestamp())
  FROM held WHERE t.id = held.id AND held.status <> 'pending'
)
SELECT CAST(id AS text), status FROM held ORDER BY id;

-- name: retry_dead_letters
-- Of several with one unique key only the newest may go.
WITH held AS MATERIALIZED (
  SELECT id, unique_key FROM tasks
  WHERE status = 'dead_letter' AND {which} AND id > CAST(:after AS uuid)
  ORDER BY id LIMIT CAST(:most AS integer) FOR UPDATE
), free AS (
  SELECT id FROM held
  WHERE unique_key IS NULL OR (
    NOT EXISTS (SELECT 1 FROM tasks o WHERE o.unique_key = held.unique_key AND o.dead_at IS NULL)
    AND NOT EXISTS (SELECT 1 FROM held other WHERE other.unique_key = held.unique_key AND other.id > held.id))
), moved AS (
  UPDATE tasks t SET status = 'pending', attempts = 0, refunds = 0, next_retry_at = NULL, worker_id = NULL, started_at = NULL,
    run_at = least(run_at, coalesce(CAST(:now AS timestamptz), statement_timestamp())),
    cancel_requested = false, progress = NULL, updated_at = coalesce(CAST(:now AS timestamptz), statement_timestamp())
  FROM free WHERE t.id = free.id RETURNING t.id
)
SELECT CAST(held.id AS text), moved.id IS NOT NULL FROM held LEFT JOIN moved ON moved.id = held.id ORDER BY held.id;

-- name: retry_cancelled
WITH held AS MATERIALIZED (
  SELECT * FROM task_history
  WHERE status = 'cancelled' AND {which} AND id > CAST(:after AS uuid)
  ORDER BY id LIMIT CAST(:most AS integer) FOR UPDATE
), moved AS (
  INSERT INTO tasks (id, type, queue, priority, args, max_attempts, fence, unique_key, timeout_s, tags, meta, last_error,
                     enqueued_at, run_at, updated_at)
  SELECT id, type, queue, priority, args, max_attempts, fence, unique_key, timeout_s, tags, meta, last_error,
         enqueued_at, least(run_at, coalesce(CAST(:now AS timestamptz), statement_timestamp())),
         coalesce(CAST(:now AS timestamptz), statement_timestamp())
  FROM held ORDER BY id DESC
  ON CONFLICT DO NOTHING
  RETURNING id, type
), gone AS (
  DELETE FROM task_history h USING moved, held
  WHERE held.id = moved.id AND h.id = moved.id AND h.finished_at = held.finished_at
), counted AS (
  INSERT INTO departures (slot, type, n) SELECT :slot, type, -count(*) FROM moved GROUP BY type
  ON CONFLICT (slot, type) DO UPDATE SET n = departures.n + excluded.n
)
SELECT CAST(held.id AS text), moved.id IS NOT NULL FROM held LEFT JOIN moved ON moved.id = held.id ORDER BY held.id;

-- name: ring
SELECT pg_notify('shiftboss', '')
WHERE EXISTS (SELECT 1 FROM workers WHERE sleeping) AND pg_notification_queue_usage() < 0.25;

-- name: delete_tasks
WITH held AS MATERIALIZED (
  SELECT id FROM tasks WHERE status IN ('pending', 'dead_letter') AND {which} AND id > CAST(:after AS uuid)
  ORDER BY id LIMIT CAST(:most AS integer) FOR UPDATE
), gone AS (
  DELETE FROM tasks t USING held WHERE t.id = held.id RETURNING t.id, t.type
), attempts AS (
  DELETE FROM task_attempts a USING gone WHERE a.task_id = gone.id
), counted AS (
  INSERT INTO departures (slot, type, n) SELECT :slot, type, count(*) FROM gone GROUP BY type
  ON CONFLICT (slot, type) DO UPDATE SET n = departures.n + excluded.n
)
SELECT CAST(id AS text), true FROM held ORDER BY id;

-- name: delete_history
WITH held AS MATERIALIZED (
  SELECT id, finished_at FROM task_history WHERE {which} AND id > CAST(:after AS uuid)
  ORDER BY id LIMIT CAST(:most AS integer) FOR UPDATE
), gone AS (
  DELETE FROM task_history h USING held WHERE h.id = held.id AND h.finished_at = held.finished_at RETURNING h.id
), attempts AS (
  DELETE FROM task_attempts a USING gone WHERE a.task_id = gone.id
)
SELECT CAST(id AS text), true FROM held ORDER BY id;

-- name: queues
WITH counted AS (
  SELECT queue, count(*) FILTER (WHERE status = 'pending') AS pending,
    count(*) FILTER (WHERE status = 'pending' AND due_at <= coalesce(CAST(:now AS timestamptz), statement_timestamp())) AS due,
    count(*) FILTER (WHERE status = 'claimed') AS claimed,
    count(*) FILTER (WHERE status = 'running') AS running,
    count(*) FILTER (WHERE status = 'dead_letter') AS dead_letter
  FROM tasks GROUP BY queue
)
SELECT coalesce(q.name, c.queue), coalesce(q.paused, false), q.concurrency, coalesce(q.weight, 1),
  coalesce(c.pending, 0), coalesce(c.due, 0), coalesce(c.claimed, 0), coalesce(c.running, 0), coalesce(c.dead_letter, 0)
FROM queues q FULL JOIN counted c ON c.queue = q.name ORDER BY 1;

-- name: set_queue
INSERT INTO queues (name, paused, concurrency, weight)
VALUES (:name, coalesce(CAST(:paused AS boolean), false), nullif(CAST(:concurrency AS integer), 0),
        coalesce(CAST(:weight AS integer), 1))
ON CONFLICT (name) DO UPDATE SET
  paused = coalesce(CAST(:paused AS boolean), queues.paused),
  concurrency = CASE WHEN CAST(:concurrency AS integer) IS NULL THEN queues.concurrency
                     ELSE nullif(CAST(:concurrency AS integer), 0) END,
  weight = coalesce(CAST(:weight AS integer), queues.weight);

-- ---------------------------------------------------------------- migrations

-- name: migrations_exist
SELECT to_regclass('schema_migrations') IS NOT NULL;

-- name: create_migrations
CREATE TABLE IF NOT EXISTS schema_migrations (
  version integer PRIMARY KEY,
  name text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- name: applied_migrations
SELECT version FROM schema_migrations ORDER BY version;

-- name: record_migration
INSERT INTO schema_migrations (version, name) VALUES (:version, :name);

-- name: lock_migrations
-- Released by the end of the transaction, whatever ends it.
SELECT pg_advisory_xact_lock(7306936220861447);
