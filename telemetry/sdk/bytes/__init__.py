"""The bytes of artifacts, models and media: packed, kept, carried and read back."""
