"""One run, from the broker to the sealed folder."""
