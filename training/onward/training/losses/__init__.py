"""What training minimises: losses, objectives, negative samples, augmented views."""
