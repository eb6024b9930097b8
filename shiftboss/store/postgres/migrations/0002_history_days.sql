-- The days of the history, made and dropped by two functions that run with the rights of the tables' owner: so the role of a
-- service owns nothing and may create nothing. They take a day, never a name, and see no other schema than their own (pg_temp
-- stands last, or a caller's temporary table could pass for one of ours).

CREATE FUNCTION add_history_day(day date) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
  name CONSTANT text := 'task_history_' || to_char(CAST(day AS timestamp), 'YYYYMMDD');
  first CONSTANT timestamptz := CAST(day AS timestamp) AT TIME ZONE 'UTC';
  past CONSTANT timestamptz := CAST(day + 1 AS timestamp) AT TIME ZONE 'UTC';
BEGIN
  -- Two that make the same day, a migration and a leader, say: the second finds it made.
  PERFORM pg_advisory_xact_lock(7306936220861447);
  IF to_regclass(format('%I.%I', current_schema(), name)) IS NOT NULL
     OR EXISTS (SELECT 1 FROM task_history_default d WHERE d.finished_at >= first AND d.finished_at < past) THEN
    RETURN false;
  END IF;
  -- LIKE and ATTACH, not PARTITION OF: that would lock out every finish while it waits for its own lock.
  EXECUTE format('CREATE TABLE %I (LIKE task_history INCLUDING ALL)', name);
  EXECUTE format('CREATE UNIQUE INDEX %I ON %I (id)', name || '_id', name);
  EXECUTE format('ALTER TABLE task_history ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, first, past);
  RETURN true;
END
$$;

-- How many rows went with it: the planner's count, or when nobody has counted yet, ours.
CREATE FUNCTION drop_history_day(day date) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
  name CONSTANT text := 'task_history_' || to_char(CAST(day AS timestamp), 'YYYYMMDD');
  n bigint;
BEGIN
  SELECT c.reltuples INTO n FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
  WHERE i.inhparent = CAST('task_history' AS regclass) AND c.oid = to_regclass(name);
  IF NOT FOUND THEN
    RETURN 0;
  END IF;
  IF n <= 0 THEN
    EXECUTE format('SELECT count(*) FROM %I', name) INTO n;
  END IF;
  EXECUTE format('DROP TABLE %I', name);
  RETURN n;
END
$$;

DO $$
BEGIN
  EXECUTE format('ALTER FUNCTION add_history_day(date) SET search_path = %I, pg_temp', current_schema());
  EXECUTE format('ALTER FUNCTION drop_history_day(date) SET search_path = %I, pg_temp', current_schema());
END
$$;
REVOKE ALL ON FUNCTION add_history_day(date), drop_history_day(date) FROM PUBLIC;
