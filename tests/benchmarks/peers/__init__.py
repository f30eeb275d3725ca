"""The same bundle behind what a user would write or pick instead of the service."""
