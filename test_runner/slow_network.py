"""The same hosts on a network that delays, reorders and loses, and that speaks IPv6 only: a switch of our own between TAP devices.

The kernel's netem would do for delay and loss, but kernels of containers and small machines are often built without it.
"""

from __future__ import annotations

import fcntl
import heapq
import multiprocessing
import os
import random
import select
import struct
import time

from namespaces import HOSTS, Network, run

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
LONGEST_FRAME = 65536
OWN_NUMBER = 254


class SlowNetwork(Network):
    """Each frame is late by `delay_ms` and up to `jitter_ms` more, by chance, and lost with the probability `loss`."""

    def __init__(self, delay_ms: float, jitter_ms: float, loss: float, seed: int) -> None:
        super().__init__()
        self.prefix = f"fd00:{random.randrange(1 << 16):x}::"
        self.delay_s, self.jitter_s, self.loss, self.seed = delay_ms / 1000, jitter_ms / 1000, loss, seed
        self.ports: list[int] = []
        self.switch: multiprocessing.Process | None = None

    def create(self) -> "SlowNetwork":
        self._remove_orphans()
        own = f"ogsw{self.id}"
        self.ports.append(tap(own))
        run("ip", "-6", "address", "add", f"{self.prefix}{OWN_NUMBER:x}/64", "dev", own, "nodad")
        run("ip", "link", "set", own, "up")
        for host, number in HOSTS.items():
            namespace, name = self.namespace(host), f"og{self.id}p{number}"
            run("ip", "netns", "add", namespace)
            self.ports.append(tap(name))
            run("ip", "link", "set", name, "netns", namespace, "name", "eth0")
            run("ip", "-n", namespace, "-6", "address", "add", f"{self.ip(host)}/64", "dev", "eth0", "nodad")
            run("ip", "-n", namespace, "link", "set", "eth0", "up")
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        # A process of its own: it must not wait for the test's threads.
        self.switch = multiprocessing.get_context("fork").Process(
            target=forward, args=(self.ports, self.delay_s, self.jitter_s, self.loss, self.seed), daemon=True)
        self.switch.start()
        return self

    def remove(self) -> None:
        if self.switch is not None:
            self.switch.kill()
            self.switch.join()
        for port in self.ports:
            os.close(port)
        super().remove()

    def ip(self, host: str) -> str:
        return f"{self.prefix}{HOSTS[host]:x}"

    def address(self, host: str) -> str:
        return f"[{self.ip(host)}]"


def tap(name: str) -> int:
    """A device that is gone when its descriptor is closed."""
    port = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(port, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return port


def forward(ports: list[int], delay_s: float, jitter_s: float, loss: float, seed: int) -> None:
    """A learning switch whose frames take their time."""
    dice = random.Random(seed)
    where: dict[bytes, int] = {}
    late: list[tuple[float, int, int, bytes]] = []
    count = 0
    while True:
        wait = max(0.0, late[0][0] - time.monotonic()) if late else None
        for port in select.select(ports, [], [], wait)[0]:
            frame = os.read(port, LONGEST_FRAME)
            target, source = frame[:6], frame[6:12]
            where[source] = port
            receivers = [where[target]] if target in where else [other for other in ports if other != port]
            for receiver in receivers:
                if dice.random() >= loss:
                    count += 1
                    heapq.heappush(late, (time.monotonic() + delay_s + dice.random() * jitter_s, count, receiver, frame))
        while late and late[0][0] <= time.monotonic():
            _, _, receiver, frame = heapq.heappop(late)
            try:
                os.write(receiver, frame)
            except OSError:
                pass  # its queue is full, or it is down: lost, as on any wire
