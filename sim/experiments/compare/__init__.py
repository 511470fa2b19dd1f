"""Is this run worse than that one?"""
