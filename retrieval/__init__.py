"""Train, benchmark and carry away image descriptors for landmark retrieval."""
