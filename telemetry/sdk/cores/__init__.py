"""What stands behind a Task: the running task of this process, or one that is stored."""
