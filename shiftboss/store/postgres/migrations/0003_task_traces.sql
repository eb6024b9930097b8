-- What is left for an hour of tasks that completed in a worker without a history: one row for all of one type that a transaction
-- completed. first_id and last_id are bounds, so that one index finds the few rows in which an id can be.
CREATE TABLE task_traces (
  first_id uuid NOT NULL,
  last_id uuid NOT NULL,
  ended_at timestamptz NOT NULL,
  ids uuid[] NOT NULL,
  fences bigint[] NOT NULL,
  CONSTRAINT task_traces_pairs CHECK (cardinality(ids) = cardinality(fences))
) WITH (
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
  toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 10000, toast.autovacuum_vacuum_cost_delay = 0
);
-- Random bits do not get smaller: trying to costs more than the bytes.
ALTER TABLE task_traces ALTER COLUMN ids SET STORAGE EXTERNAL;

-- An id that has just been made is larger than all that have ended: whoever asks about it reads nothing here.
CREATE INDEX idx_task_traces_ids ON task_traces (last_id, first_id);
CREATE INDEX idx_task_traces_ended_at ON task_traces USING brin (ended_at);
