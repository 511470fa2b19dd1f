"""How far the model is from a real server."""
