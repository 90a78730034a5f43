"""Ports of this machine alone."""

import socket

from captioner.common.errors import CaptionerError

HOST = "127.0.0.1"


def reserve(port: int) -> socket.socket:
    """Take a port of `HOST`, before anything that takes long; 0 takes any that is free.

    Raises:
        CaptionerError: it is in use, or not for everyone.
    """
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((HOST, port))
        taken.listen()  # else another could still take it; who comes early waits
    except PermissionError:
        taken.close()
        raise CaptionerError(f"Port {port} is not for everyone: choose one from 1024 on, as in --port 7861.") from None
    except OSError:
        taken.close()
        other = port + 1 if port < 65535 else port - 1
        raise CaptionerError(f"Port {port} is in use: choose another, as in --port {other}.") from None
    return taken
