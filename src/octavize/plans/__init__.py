"""What becomes octave, decided from numbers: plans, policies of network families, exchange, geometry."""
