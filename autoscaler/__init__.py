"""The autoscaler: decides how many gateways run and which ones stop. Imports no other service."""
