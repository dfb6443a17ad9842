"""Reading and writing media: probe, decode, conform, encode, and the child process for it."""
