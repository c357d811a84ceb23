"""The drivers, which start and stop gateways: each implements `autoscaler.pool.Driver`."""
