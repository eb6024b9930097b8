"""Power cuts for SQLite: the real store works, every write and sync is recorded, and the disk is cut anywhere in between."""
