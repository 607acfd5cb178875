"""Attention: what a query may see, how it is computed, what is remembered."""
