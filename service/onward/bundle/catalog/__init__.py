"""Items of a bundle: ids, attributes, filters, and changes since the export."""
