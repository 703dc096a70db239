"""A trained model as a folder that transformers loads without this package (docs/export.md)."""
