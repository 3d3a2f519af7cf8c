"""What things cost: both sides in one run, in turn, as ratios. Weights are random wherever cost alone counts."""
