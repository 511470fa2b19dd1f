"""The notebooks headless, each to a verdict, and their pages."""
