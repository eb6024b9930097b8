-- The first schema. Times are TEXT 'YYYY-MM-DD HH:MM:SS.ffffff' in UTC, so that they sort and operators can read them.
-- Wide columns stand last in each row: reading the narrow ones never walks their overflow pages.

-- What is alive: pending, claimed, running, dead_letter. A pending row may still name its last worker: the guards of
-- every write are id, fence and status, and an operator may set status = 'pending' by hand.
CREATE TABLE tasks (
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) = 36),
    type TEXT NOT NULL,
    queue TEXT NOT NULL DEFAULT 'default',
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'claimed', 'running', 'dead_letter')),
    priority INTEGER NOT NULL DEFAULT 0 CHECK (priority BETWEEN -100 AND 100),
    attempts INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER CHECK (max_attempts >= 1),
    refunds INTEGER NOT NULL DEFAULT 0 CHECK (refunds BETWEEN 0 AND 100),
    fence INTEGER NOT NULL DEFAULT 0 CHECK (fence >= 0),
    worker_id TEXT,
    unique_key TEXT,
    timeout_s REAL,
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    enqueued_at TEXT NOT NULL,
    run_at TEXT NOT NULL,
    next_retry_at TEXT,
    due_at TEXT GENERATED ALWAYS AS (coalesce(next_retry_at, run_at)) VIRTUAL,
    started_at TEXT,
    updated_at TEXT NOT NULL,
    tags TEXT,
    meta TEXT,
    progress TEXT,
    last_error TEXT,
    args TEXT NOT NULL DEFAULT '{}',
    CHECK (status NOT IN ('claimed', 'running') OR worker_id IS NOT NULL),
    CHECK (attempts >= 0 AND attempts <= coalesce(max_attempts, attempts))
) STRICT, WITHOUT ROWID;

-- Type and status ride along so that lanes, gauges and the search for unknown types never open a row: SQLite does not
-- conclude the status from the condition.
CREATE INDEX idx_tasks_claimable ON tasks (queue, priority DESC, due_at, id, type, status) WHERE status = 'pending';
CREATE INDEX idx_tasks_live ON tasks (worker_id) WHERE status IN ('claimed', 'running');
CREATE INDEX idx_tasks_dead ON tasks (updated_at, type, status) WHERE status = 'dead_letter';
CREATE UNIQUE INDEX idx_tasks_unique ON tasks (unique_key)
WHERE unique_key IS NOT NULL AND status IN ('pending', 'claimed', 'running');

-- What has ended for good. The primary key is the last fence: a task is completed once.
CREATE TABLE task_history (
    id TEXT NOT NULL PRIMARY KEY,
    type TEXT NOT NULL,
    queue TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('completed', 'cancelled')),
    priority INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    max_attempts INTEGER,
    fence INTEGER NOT NULL,
    worker_id TEXT,
    unique_key TEXT,
    timeout_s REAL,
    enqueued_at TEXT NOT NULL,
    run_at TEXT NOT NULL,
    started_at TEXT,
    finished_at TEXT NOT NULL,
    duration_s REAL,
    updated_at TEXT NOT NULL,
    tags TEXT,
    meta TEXT,
    last_error TEXT,
    args TEXT NOT NULL,
    result TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX idx_history_finished ON task_history (status, finished_at, type);
CREATE INDEX idx_history_results ON task_history (finished_at) WHERE result IS NOT NULL;

-- One row for each attempt that did not succeed: one outcome for one (task, fence).
CREATE TABLE task_attempts (
    task_id TEXT NOT NULL,
    fence INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('failed', 'timeout', 'crashed', 'lost', 'interrupted', 'cancelled', 'snoozed')),
    worker_id TEXT,
    started_at TEXT,
    ended_at TEXT NOT NULL,
    duration_s REAL,
    error TEXT,
    traceback TEXT,
    PRIMARY KEY (task_id, fence)
) STRICT, WITHOUT ROWID;

CREATE TABLE workers (
    id TEXT NOT NULL PRIMARY KEY,
    hostname TEXT NOT NULL,
    pid INTEGER NOT NULL,
    version TEXT NOT NULL,
    started_at TEXT NOT NULL,
    last_heartbeat TEXT NOT NULL,
    timeout_s REAL NOT NULL CHECK (timeout_s > 0),
    pool_size INTEGER NOT NULL,
    active INTEGER NOT NULL DEFAULT 0,
    sleeping INTEGER NOT NULL DEFAULT 0 CHECK (sleeping IN (0, 1))
) STRICT;

-- One row. A resigned term only expires: its number is never used again.
CREATE TABLE leader (
    name TEXT NOT NULL PRIMARY KEY CHECK (name = 'main'),
    worker_id TEXT NOT NULL,
    term INTEGER NOT NULL CHECK (term >= 1),
    expires_at TEXT NOT NULL
) STRICT;

CREATE TABLE queues (
    name TEXT NOT NULL PRIMARY KEY,
    paused INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
    concurrency INTEGER CHECK (concurrency >= 1),
    weight INTEGER NOT NULL DEFAULT 1 CHECK (weight >= 1)
) STRICT;

CREATE TABLE counters (
    worker_id TEXT NOT NULL,
    name TEXT NOT NULL,
    labels TEXT NOT NULL,
    value REAL NOT NULL,
    PRIMARY KEY (worker_id, name, labels)
) STRICT, WITHOUT ROWID;

-- How many tasks of a type have left `tasks`: with those that are still there it gives how many were ever enqueued.
CREATE TABLE departures (
    type TEXT NOT NULL PRIMARY KEY,
    n INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
