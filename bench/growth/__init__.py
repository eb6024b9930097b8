"""What becomes of the rate when the store grows, workers are added, or time passes. See docs/explanation/performance.md."""
