"""A few runs that differ in one setting."""
