-- What is alive: pending, claimed, running, dead_letter. Rows are short-lived and rewritten several times, so pages keep
-- room for HOT updates and vacuum comes by count, not by share of the table (20 % of a full queue is far too late).
CREATE TABLE tasks (
  id uuid PRIMARY KEY,
  type text NOT NULL,
  queue text COLLATE "C" NOT NULL DEFAULT 'default',
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'claimed', 'running', 'dead_letter')),
  priority smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN -100 AND 100),
  args json NOT NULL DEFAULT '{}',
  attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  max_attempts integer CHECK (max_attempts >= 1),
  refunds integer NOT NULL DEFAULT 0 CHECK (refunds BETWEEN 0 AND 100),
  fence bigint NOT NULL DEFAULT 0 CHECK (fence >= 0),
  worker_id text,
  unique_key text,
  timeout_s double precision CHECK (timeout_s > 0),
  tags json,
  meta json,
  progress json,
  cancel_requested boolean NOT NULL DEFAULT false,
  last_error text,
  enqueued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  run_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  next_retry_at timestamptz,
  due_at timestamptz NOT NULL GENERATED ALWAYS AS (coalesce(next_retry_at, run_at)) STORED,
  started_at timestamptz,
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT tasks_leased_has_worker CHECK (status NOT IN ('claimed', 'running') OR worker_id IS NOT NULL),
  CONSTRAINT tasks_attempts_bounded CHECK (attempts <= coalesce(max_attempts, attempts))
) WITH (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
  autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 10000,
  autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000,
  toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 1000, toast.autovacuum_vacuum_cost_delay = 0
);

-- Equality on the first two columns, then the range: a lane of (queue, priority) is one stretch of it in claiming order.
CREATE INDEX idx_tasks_claimable ON tasks (queue, priority DESC, due_at, id) WHERE status = 'pending';
CREATE INDEX idx_tasks_live ON tasks (worker_id) WHERE status IN ('claimed', 'running');
CREATE INDEX idx_tasks_dead_letter ON tasks (updated_at) WHERE status = 'dead_letter';
CREATE UNIQUE INDEX idx_tasks_unique_key ON tasks (unique_key)
  WHERE unique_key IS NOT NULL AND status IN ('pending', 'claimed', 'running');

-- What has ended, by day: retention drops partitions. A task leaves `tasks` once, so unique ids per partition are enough.
CREATE TABLE task_history (
  id uuid NOT NULL,
  type text NOT NULL,
  queue text COLLATE "C" NOT NULL,
  status text NOT NULL CHECK (status IN ('completed', 'cancelled')),
  priority smallint NOT NULL,
  args json NOT NULL,
  attempts integer NOT NULL,
  max_attempts integer,
  fence bigint NOT NULL,
  worker_id text,
  unique_key text,
  timeout_s double precision,
  tags json,
  meta json,
  last_error text,
  result json,
  enqueued_at timestamptz NOT NULL,
  run_at timestamptz NOT NULL,
  started_at timestamptz,
  finished_at timestamptz NOT NULL,
  duration_s double precision,
  updated_at timestamptz NOT NULL
) PARTITION BY RANGE (finished_at);

CREATE INDEX idx_task_history_result ON task_history (finished_at) WHERE result IS NOT NULL;
CREATE INDEX idx_task_history_finished_at ON task_history USING brin (finished_at);
CREATE INDEX idx_task_history_cancelled ON task_history (finished_at) WHERE status = 'cancelled';

-- Only for days that nobody prepared (no leader for over a week, a clock far off): its rows are deleted one by one.
CREATE TABLE task_history_default PARTITION OF task_history DEFAULT;
CREATE UNIQUE INDEX task_history_default_id ON task_history_default (id);

-- One row per attempt that ended without success, and with that the ledger of what a fence has already reported.
CREATE TABLE task_attempts (
  task_id uuid NOT NULL,
  fence bigint NOT NULL,
  attempt integer NOT NULL,
  outcome text NOT NULL CHECK (outcome IN ('failed', 'timeout', 'crashed', 'lost', 'interrupted', 'cancelled', 'snoozed')),
  worker_id text,
  started_at timestamptz,
  ended_at timestamptz NOT NULL,
  duration_s double precision,
  error text,
  traceback text,
  PRIMARY KEY (task_id, fence)
);
CREATE INDEX idx_task_attempts_ended_at ON task_attempts (ended_at);

CREATE TABLE workers (
  id text PRIMARY KEY,
  hostname text NOT NULL,
  pid integer NOT NULL,
  version text NOT NULL,
  started_at timestamptz NOT NULL,
  last_heartbeat timestamptz NOT NULL,
  timeout_s double precision NOT NULL CHECK (timeout_s > 0),
  pool_size integer NOT NULL,
  active integer NOT NULL DEFAULT 0,
  sleeping boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

-- The term is never reused, so the row stays when a leader resigns.
CREATE TABLE leader (
  name text PRIMARY KEY CHECK (name = 'main'),
  worker_id text NOT NULL,
  term bigint NOT NULL CHECK (term >= 1),
  expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE queues (
  name text COLLATE "C" PRIMARY KEY,
  paused boolean NOT NULL DEFAULT false,
  concurrency integer CHECK (concurrency >= 1),
  weight integer NOT NULL DEFAULT 1 CHECK (weight >= 1)
);

CREATE TABLE counters (
  worker_id text NOT NULL,
  name text NOT NULL,
  labels text NOT NULL,
  value double precision NOT NULL,
  PRIMARY KEY (worker_id, name, labels)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- How many tasks have left `tasks`, by type: enqueued ever = rows in `tasks` + the sum of these. Every worker has rows of its
-- own (`slot`), so that no finish waits for another worker's commit; the leader folds those of removed workers into slot ''.
CREATE TABLE departures (
  slot text NOT NULL,
  type text NOT NULL,
  n bigint NOT NULL,
  PRIMARY KEY (slot, type)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
