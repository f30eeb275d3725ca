"""Request and response bodies. Requests are strict: no unknown field, no number for a text, no text for a number."""
