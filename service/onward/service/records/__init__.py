"""Records of what was recommended and what visitors did: answers, counters, popularity, event log."""
