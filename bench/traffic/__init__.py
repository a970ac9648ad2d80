"""Traffic as programs really make it: frames made beforehand, and the writers that send them."""
