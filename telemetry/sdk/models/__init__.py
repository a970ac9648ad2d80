"""The models of a task, in its record and in the files of this machine."""
