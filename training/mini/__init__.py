"""The factory of the embedded families; it imports the trainer and is never imported by it."""
