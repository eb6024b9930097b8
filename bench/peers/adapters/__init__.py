"""One small program for each queue that is compared, run by its own interpreter. Standard library and that queue only."""
