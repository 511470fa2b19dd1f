"""What a bus carries on this machine, and a plan with reasons."""
