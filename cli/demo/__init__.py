"""`liveroom demo`: the command, its screen, and the surge."""
