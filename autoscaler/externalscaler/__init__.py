"""The protocol between KEDA and an external scaler: protocol buffers, generated (see the
.proto file).
"""
