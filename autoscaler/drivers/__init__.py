"""What starts and stops gateways. One module each; all do what `autoscaler.pool.Driver` says."""
