"""The code that all services share: formats, settings and the runtime around them.

Owns every format that crosses a process boundary. Imports no service; services import it and not
each other.
"""

__version__ = "0.1.0"
