"""The scheduler: tells a viewer which gateways to connect to, weighted by their load."""
