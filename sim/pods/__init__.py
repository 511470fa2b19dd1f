"""Carry the bus out: a pod on an event loop, the blocking client, and the processes that pods live in."""
