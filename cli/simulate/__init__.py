"""`liveroom simulate`: the pool in a model, with the pure cores that run."""
