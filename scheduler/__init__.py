"""The scheduler: assigns gateways to viewers, weighted by the gateways' load."""
