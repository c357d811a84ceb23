"""Viewers: the state machine all SDKs share, a client, a crowd for load, and the ledger that judges
what they saw.
"""
