"""The actors of a worker: one process each, reached by messages over links. None of them knows how processes are started."""
