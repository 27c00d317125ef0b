"""Client addresses and the networks a key may be used from. Pure."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@lru_cache(maxsize=1024)
def read(text: str) -> Address | None:
    """The address in ``text``; None if it is none. IPv4 mapped into IPv6 counts as IPv4."""
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def client(*, peer: str, forwarded: str, proxies: int) -> Address | None:
    """Who really sent a request that came through ``proxies`` proxies of ours; None if unknown.

    Each proxy appends the address it saw to ``X-Forwarded-For``, so the entry that our outermost
    proxy wrote is the ``proxies``-th from the right; everything left of it is the client's own claim.
    """
    if proxies == 0:
        return read(peer)
    hops = forwarded.split(",")
    return read(hops[-proxies]) if len(hops) >= proxies else None


def network(text: str) -> Network:
    """The network written as ``10.0.0.0/8`` or as one address. Raises ``ValueError``."""
    return ip_network(text.strip(), strict=True)


def within(address: Address | None, networks: Iterable[Network]) -> bool:
    """Whether the address lies in one of the networks; an unknown one lies in none."""
    return address is not None and any(address in each for each in networks)


def covered(inner: Network, outer: Iterable[Network]) -> bool:
    """Whether one of ``outer`` contains all of ``inner``."""
    for each in outer:
        if isinstance(inner, IPv4Network) and isinstance(each, IPv4Network) and inner.subnet_of(each):
            return True
        if isinstance(inner, IPv6Network) and isinstance(each, IPv6Network) and inner.subnet_of(each):
            return True
    return False
