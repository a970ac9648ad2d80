"""Task: a mixin for each section of the Task page."""
