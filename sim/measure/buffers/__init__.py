"""When a server cuts a subscriber that does not read."""
