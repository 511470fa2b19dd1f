"""What to run: the TOML file, its settings and their checks, and the calls it means to make."""
