"""Where tasks are kept: one contract (`base`), SQLite and PostgreSQL behind it."""
