"""The command `buslab`."""
