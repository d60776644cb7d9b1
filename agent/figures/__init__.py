"""Golden signals as sums that can be merged: what is counted, how windows and agents add up, what is asked. Pure."""
