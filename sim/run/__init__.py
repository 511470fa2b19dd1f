"""One run, from the broker to the sealed folder: the numbered steps, and who takes part in them."""
