"""The command `buslab`: thin, one file a command."""
