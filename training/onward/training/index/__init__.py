"""Build and tune the FAISS index of a bundle."""
