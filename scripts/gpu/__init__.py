"""What one short visit to a GPU must tell: are the optimised paths right, and how fast is each of them."""
