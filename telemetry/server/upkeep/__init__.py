"""What an operator asks of a running server: backups and retention, and how commands on its machine reach it."""
