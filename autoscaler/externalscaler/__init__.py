"""What KEDA and an external scaler say to each other: its protocol buffers, generated (see the
.proto file).
"""
