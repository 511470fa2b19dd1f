"""What one machine gives: time, processes, lines between them, HTTP. It knows nothing of the bus."""
