# Looks names up with Python's socket module and prints one line a name.
import socket
import sys

for name in sys.argv[1:]:
    try:
        found = {a[4][0] for a in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
        print(name, *sorted(found))
    except socket.gaierror as e:
        print(name, "error:", e)
