"""Reading, recognising, converting and writing checkpoint files."""
