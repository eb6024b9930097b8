-- What each role may do, as little as its statements in queries.sql need. {schema} and {role} are put in as identifiers.

-- name: home
-- The schema of our tables, their owner, and whether we may act as the owner.
SELECT n.nspname, pg_get_userbyid(c.relowner), pg_has_role(c.relowner, 'USAGE')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = CAST('tasks' AS regclass);

-- name: candidates
-- Those of the named roles that exist, and whether they can do everything anyway: members of the owner, superusers.
SELECT r.rolname, pg_has_role(r.oid, c.relowner, 'MEMBER')
FROM pg_roles r, pg_class c WHERE c.oid = CAST('tasks' AS regclass) AND r.rolname = ANY (CAST(:names AS text[]));

-- name: revoke
-- Whatever it had before, columns included: what is granted below is all that is left.
REVOKE ALL ON {schema}.tasks, {schema}.task_history, {schema}.task_history_default, {schema}.task_attempts, {schema}.task_traces,
  {schema}.workers, {schema}.leader, {schema}.queues, {schema}.counters, {schema}.departures, {schema}.claim_ranges,
  {schema}.schema_migrations FROM {role};
REVOKE ALL ON FUNCTION {schema}.add_history_day(date), {schema}.drop_history_day(date) FROM {role};

-- name: worker
-- A service and its operators. It creates nothing: days of the history by the two functions.
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.tasks, {schema}.task_history, {schema}.workers, {schema}.counters,
  {schema}.departures, {schema}.claim_ranges TO {role};
GRANT SELECT, INSERT, DELETE ON {schema}.task_attempts, {schema}.task_traces TO {role};
GRANT SELECT, INSERT, UPDATE ON {schema}.leader, {schema}.queues TO {role};
GRANT SELECT, DELETE ON {schema}.task_history_default TO {role};
GRANT SELECT ON {schema}.schema_migrations TO {role};
GRANT EXECUTE ON FUNCTION {schema}.add_history_day(date), {schema}.drop_history_day(date) TO {role};

-- name: producer
-- Enqueues, by the columns that a new task has, and sees what a unique key needs: not a task's arguments, not its result.
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT INSERT (id, type, queue, priority, args, max_attempts, timeout_s, unique_key, tags, meta, enqueued_at, run_at, updated_at)
  ON {schema}.tasks TO {role};
GRANT SELECT (id, status, dead_at, unique_key, enqueued_at, run_at) ON {schema}.tasks TO {role};
GRANT SELECT (id, finished_at) ON {schema}.task_history TO {role};
GRANT SELECT (first_id, last_id, ids) ON {schema}.task_traces TO {role};
GRANT SELECT (sleeping) ON {schema}.workers TO {role};
GRANT SELECT ON {schema}.schema_migrations TO {role};

-- name: reader
-- Status, lists and figures, changing nothing: all but args, result, meta and progress.
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT SELECT (id, type, queue, status, priority, attempts, max_attempts, refunds, fence, worker_id, unique_key, timeout_s, tags,
              cancel_requested, last_error, enqueued_at, run_at, next_retry_at, due_at, started_at, updated_at, dead_at)
  ON {schema}.tasks TO {role};
GRANT SELECT (id, type, queue, status, priority, attempts, max_attempts, fence, worker_id, unique_key, timeout_s, tags, last_error,
              enqueued_at, run_at, started_at, finished_at, duration_s, updated_at)
  ON {schema}.task_history TO {role};
GRANT SELECT ON {schema}.task_attempts, {schema}.task_traces, {schema}.workers, {schema}.leader, {schema}.queues,
  {schema}.counters, {schema}.departures, {schema}.claim_ranges, {schema}.schema_migrations TO {role};
