"""What one machine gives: time, processes, lines between them, files, HTTP, and words for numbers. It knows nothing of the bus."""
