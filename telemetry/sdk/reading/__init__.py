"""Where a task's record and reports are read."""
