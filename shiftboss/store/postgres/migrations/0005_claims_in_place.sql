-- A claim changes no column that an index mentions, so the server writes the row anew on the same page and no index learns of it: that
-- was a sixth to a quarter of what a task cost the server. So the indexes mention no status and no worker: what is dead has a column of its own,
-- and where a worker's claims lie is kept by the stretch, not by the row. Claimed rows stay in the index of what can be claimed until
-- they end.
DROP INDEX idx_tasks_claimable, idx_tasks_live, idx_tasks_dead_letter, idx_tasks_unique_key, idx_tasks_cancel_requested;

-- A page is filled to less than a half: what a claim writes is larger than what was enqueued, by the worker and two times.
ALTER TABLE tasks SET (fillfactor = 45);
ALTER TABLE tasks ADD COLUMN dead_at timestamptz GENERATED ALWAYS AS (CASE WHEN status = 'dead_letter' THEN updated_at END) STORED;

-- Equality on the first two columns, then the range: a lane of (queue, priority) is one stretch of it in claiming order.
CREATE INDEX idx_tasks_claimable ON tasks (queue, priority DESC, due_at, id) WHERE dead_at IS NULL;
CREATE INDEX idx_tasks_dead_letter ON tasks (dead_at) WHERE dead_at IS NOT NULL;
CREATE UNIQUE INDEX idx_tasks_unique_key ON tasks (unique_key) WHERE unique_key IS NOT NULL AND dead_at IS NULL;
CREATE INDEX idx_tasks_cancel_requested ON tasks (id) WHERE cancel_requested;

-- From when to when the tasks were due that a worker has claimed from a lane in one period of some seconds: all that it holds stands
-- between. Every claim says so in its own statement, and counts, so that whoever makes a stretch shorter knows that no claim came
-- between. With the period the row is another one: while somebody holds a snapshot all old versions of a row stay, and are walked over.
CREATE TABLE claim_ranges (
  worker_id text NOT NULL,
  queue text COLLATE "C" NOT NULL,
  priority smallint NOT NULL,
  period bigint NOT NULL,
  first_due timestamptz NOT NULL,
  last_due timestamptz NOT NULL,
  claims bigint NOT NULL DEFAULT 1,
  PRIMARY KEY (worker_id, queue, priority, period)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

INSERT INTO claim_ranges (worker_id, queue, priority, period, first_due, last_due)
SELECT worker_id, queue, priority, 0, min(due_at), max(due_at) FROM tasks
WHERE status IN ('claimed', 'running') GROUP BY worker_id, queue, priority;
