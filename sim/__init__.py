"""buslab: run Aiponge's event bus against a real Redis and account for every copy of every event."""

__version__ = "0.1.0"
