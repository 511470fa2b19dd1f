"""Ground `model`: virtual time, and in it a network and a Redis."""
