"""Teachers of an encoder, and what they think of each training example."""
