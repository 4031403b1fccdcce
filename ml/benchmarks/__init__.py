"""What things cost, measured (``make bench``): one module an area, figures as ratios to a peer."""
