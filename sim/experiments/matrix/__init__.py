"""What each fault does to each bus."""
