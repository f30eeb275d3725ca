"""From interests, a similar item or popularity to a ranked list: index search, boosts, diversity, re-ranking."""
