"""Many runs, and what they say together; a folder each."""
