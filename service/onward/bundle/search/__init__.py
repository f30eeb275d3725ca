"""From interests to ranked items: index, rankers, boosts, diversity."""
