"""From the item rows of a session to its interests: the ONNX program, and a compiled kernel that replaces it."""
