"""What is broken on purpose and mended again: what a fault may touch, when it is on, and the catalogue."""
