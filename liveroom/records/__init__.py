"""Kafka records, versioned: how each is written and read, by topic. Pure: bytes in, values out.

Owns the bytes of every topic; documented in docs/records.md.
"""
