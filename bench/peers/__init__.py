"""Other queues under the same load, each in an environment of its own. See docs/explanation/performance.md."""
