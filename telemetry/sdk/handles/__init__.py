"""What a program holds of a task's artifacts and models."""
