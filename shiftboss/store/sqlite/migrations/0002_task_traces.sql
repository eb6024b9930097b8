-- What is left for an hour of tasks that completed in a worker without a history: one row for all that a transaction completed.
-- leases is a JSON array of [id, fence]; first_id and last_id are bounds, so that one index finds the few rows in which an id
-- can be.
CREATE TABLE task_traces (
    last_id TEXT NOT NULL,
    first_id TEXT NOT NULL,
    ended_at TEXT NOT NULL,
    leases TEXT NOT NULL
) STRICT;

-- An id that has just been made is larger than all that have ended: whoever asks about it reads nothing here.
CREATE INDEX idx_task_traces_ids ON task_traces (last_id, first_id);
CREATE INDEX idx_task_traces_ended ON task_traces (ended_at);
