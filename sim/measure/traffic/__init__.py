"""What a bus that is there already carries: its traffic heard and kept, described, and made into scenarios that play it."""
