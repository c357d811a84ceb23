"""The edge: a gateway that reads the whole queue and pushes its rooms' batches to its viewers."""
