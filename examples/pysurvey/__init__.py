"""A survey of Python source: one task for each file of an installation, and a report at the end."""
