"""`liveroom loadtest`: the rig, where one gateway stops keeping its promises, and the report."""
