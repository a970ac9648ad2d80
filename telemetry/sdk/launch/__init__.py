"""What Task.init puts together."""
