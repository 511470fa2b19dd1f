"""The run folder, the seam: the live half writes it, the offline half reads it, nothing else passes between them."""
