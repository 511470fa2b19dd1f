"""The event bus and the six services on it, without I/O: pure functions and state machines that take `now_ns` as an argument."""
