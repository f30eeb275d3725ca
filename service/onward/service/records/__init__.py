"""Records of answers and events, written in the background: answers, counters, popularity, event log."""
