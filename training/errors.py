"""What a person who runs a command is told when something they gave is unusable."""


class InputError(Exception):
    """One line that names the file, row or field and says what to do; a command prints it and exits with 2."""
