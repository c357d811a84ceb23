"""The entrance for interactions: checks what users send over HTTP and puts it on `uplink`. Imports no other service."""
