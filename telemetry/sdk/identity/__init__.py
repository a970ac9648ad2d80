"""Who this process is: its task, rank and attempt, and what it may tell its children."""
