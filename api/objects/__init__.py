"""What the API answers with: one frozen shape an object, built from a row, every field described."""
