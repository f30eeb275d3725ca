"""The files of a bundle: how each is written, checked and read."""
