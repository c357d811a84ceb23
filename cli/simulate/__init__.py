"""`liveroom simulate`: the pool's own decisions on modelled gateways, viewers and time."""
