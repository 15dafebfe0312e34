# Looks names up with Python's socket module and prints one line a name, as lookup.c does.
import socket
import sys

for name in sys.argv[1:]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
        print(name, *sorted({a[4][0] for a in found}), f"({found[0][3]})")
    except socket.gaierror as e:
        print(name, "error:", e)
