"""How much load the service stands: visitors made up from a bundle, sent from a process of its own, and measured."""
