"""Content towers: networks from the attributes of an item to its vector."""
