"""Many runs, and what they say together; a folder each, of the same parts: `plan run row table plots report`, as far as it needs them."""
