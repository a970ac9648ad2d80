"""What several servers would share beside the store: the bus of changes, and who is let in."""
