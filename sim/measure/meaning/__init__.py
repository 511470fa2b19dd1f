"""What a scenario means, as numbers, before it runs: pods, connections, events, copies and bytes, and what of it this machine carries."""
