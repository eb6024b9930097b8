-- Statements about a connection that belongs to the caller.

-- name: sqlite_main_file
SELECT file FROM pragma_database_list WHERE name = 'main';

-- name: sqlite_has_tasks
SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'tasks';
