"""What a side does with an engine in this process."""
