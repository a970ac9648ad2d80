"""Writing a task's record."""
