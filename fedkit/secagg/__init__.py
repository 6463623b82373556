"""Secure aggregation: the server learns the sum of the updates and nothing else about them."""
