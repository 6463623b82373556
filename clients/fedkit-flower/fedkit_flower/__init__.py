"""fedkit on a Flower fleet."""
