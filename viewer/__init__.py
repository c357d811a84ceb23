"""Viewers: the session that all SDKs share, a client, a sender, load generators, the canary.

The ledger checks what viewers received.
"""
