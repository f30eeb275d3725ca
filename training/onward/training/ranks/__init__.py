"""Processes that train one encoder together, as torchrun starts them."""
