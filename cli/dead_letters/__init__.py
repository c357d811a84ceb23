"""`liveroom dead-letters`: shows the records of `uplink` that could not be used, and sends them
again.
"""
