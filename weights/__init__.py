"""Which bytes, where from, are they right, under which licence. Imports no torch."""
