"""Connections as the operating system has them: listening, how many there may be, and how slow they may be."""
