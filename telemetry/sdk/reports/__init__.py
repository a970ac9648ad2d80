"""What the program reports by hand."""
