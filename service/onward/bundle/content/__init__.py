"""The content of items: a vector from attributes alone, by an ONNX program of the bundle."""
