"""Sessions at rest: folders and zips of a task's frames and blobs; finding, reading, mending and sending them."""
