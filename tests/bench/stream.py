"""Bulk transfers, as a process of its own beside the server: takes a port, get or put, a number of clients and a time;
gives bytes and seconds as JSON on standard output.

Bytes that arrive are dropped in the kernel (MSG_TRUNC, tcp(7)), and bytes that are sent come from one buffer, so that the
server and not this client is what takes time."""

import json
import socket
import sys
import threading
import time

PIECE = 1 << 20


def main():
    action, port, target, clients, seconds, size = sys.argv[1:]
    transfer = {"get": download, "put": upload}[action]
    end = time.monotonic() + float(seconds)
    totals, failures = [], []

    def work():
        try:
            totals.append(transfer(int(port), target, end, int(size)))
        except OSError as error:
            failures.append(str(error))

    start = time.monotonic()
    threads = [threading.Thread(target=work) for _ in range(int(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"bytes": sum(totals), "seconds": time.monotonic() - start, "failures": failures}))


def download(port, target, end, size):
    """Fetches the target again and again on one connection; the last one is read to its end."""
    request = f"GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
    space, total = bytearray(PIECE), 0
    with connect(port) as client:
        while time.monotonic() < end:
            client.sendall(request)
            length, body = head(client)
            if length != size:
                raise OSError(f"the answer to {target} has {length} bytes, not {size}")
            left = length - body
            while left:
                got = client.recv_into(space, min(left, PIECE), socket.MSG_TRUNC)
                if not got:
                    raise OSError(f"the answer to {target} ended {left} bytes early")
                left -= got
            total += length
    return total


def upload(port, target, end, size):
    """Sends a body of this size again and again on one connection; each must be answered with its length."""
    request = f"POST {target} HTTP/1.1\r\nHost: bench\r\nContent-Length: {size}\r\n\r\n".encode()
    piece = memoryview(bytes(PIECE))
    total = 0
    with connect(port) as client:
        while time.monotonic() < end:
            client.sendall(request)
            left = size
            while left:
                left -= client.send(piece[:min(left, PIECE)])
            answer = b""
            while not answer.endswith(f"\r\n{size}\n".encode()):
                more = client.recv(65536)
                if not more or len(answer) > 65536:
                    raise OSError(f"the upload to {target} was answered with {answer!r}")
                answer += more
            total += size
    return total


def connect(port):
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def head(client):
    """Reads the head of an answer; gives the announced length and how much of the body came with it."""
    got = b""
    while b"\r\n\r\n" not in got:
        more = client.recv(4096)
        if not more:
            raise OSError(f"no whole head: {got!r}")
        got += more
    lines, body = got.split(b"\r\n\r\n", 1)
    if not lines.startswith(b"HTTP/1.1 200"):
        raise OSError(f"refused: {lines!r}")
    for line in lines.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value), len(body)
    raise OSError(f"no length: {lines!r}")


if __name__ == "__main__":
    main()
