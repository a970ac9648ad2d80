"""The process that we are a guest in: its end, its forks and signals, its threads, descriptors and terminal."""
