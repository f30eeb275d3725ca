"""The peers' own programs: each runs in a process, and some in a virtual environment, of its own."""
