"""What a broker, a bus and the lab itself carry, each measured beside its prediction."""
