"""Gateways as the pods of one Deployment: what is known of pods, the API, the driver, addresses.

The only package that imports the Kubernetes client.
"""
