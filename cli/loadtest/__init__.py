"""`liveroom loadtest`: the rig, the knee (where a gateway misses an objective), and the report."""
