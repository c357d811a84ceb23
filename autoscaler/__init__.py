"""The pool: how many gateways there should be, and which. Imports no other service."""
