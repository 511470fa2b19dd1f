"""Speak Redis: sockets, commands, channels, streams and the slots of a cluster. No redis error leaves it."""
