-- Every claimer asks every second which of its tasks are to be cancelled, and hardly ever are there any: an index of these alone.
CREATE INDEX idx_tasks_cancel_requested ON tasks (worker_id) WHERE cancel_requested;
