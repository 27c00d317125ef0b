"""Who really sent a request, and whether it came from an allowed network."""

from ipaddress import ip_address

import pytest

from orgs import addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("203.0.113.7", "203.0.113.7"),
        (" 203.0.113.7 ", "203.0.113.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
    ],
)
def test_an_address_is_read_and_a_mapped_one_counts_as_ipv4(text: str, expected: str) -> None:
    assert addresses.read(text) == ip_address(expected)


@pytest.mark.parametrize("text", ["", "unknown", "203.0.113", "203.0.113.7:443", "203.0.113.0/24", "1" * 5000])
def test_what_is_no_address_is_unknown(text: str) -> None:
    assert addresses.read(text) is None


def test_without_proxies_the_header_is_only_a_claim() -> None:
    found = addresses.client(peer="198.51.100.1", forwarded="203.0.113.7", proxies=0)
    assert found == ip_address("198.51.100.1")


def test_with_proxies_the_entry_of_the_outermost_counts_and_what_the_client_wrote_does_not() -> None:
    forged = "10.0.0.1, 203.0.113.7, 192.0.2.1"
    assert addresses.client(peer="127.0.0.1", forwarded=forged, proxies=1) == ip_address("192.0.2.1")
    assert addresses.client(peer="127.0.0.1", forwarded=forged, proxies=2) == ip_address("203.0.113.7")


def test_fewer_entries_than_proxies_means_unknown() -> None:
    assert addresses.client(peer="127.0.0.1", forwarded="203.0.113.7", proxies=2) is None
    assert addresses.client(peer="127.0.0.1", forwarded="", proxies=1) is None


def test_an_unknown_address_lies_in_no_network() -> None:
    everything = (addresses.network("0.0.0.0/0"), addresses.network("::/0"))
    assert addresses.within(ip_address("203.0.113.7"), everything)
    assert not addresses.within(None, everything)


def test_a_network_with_host_bits_is_refused_because_it_hides_a_typing_error() -> None:
    with pytest.raises(ValueError, match="host bits"):
        addresses.network("203.0.113.7/24")


@pytest.mark.parametrize(
    ("inner", "outer", "covered"),
    [
        ("203.0.113.0/25", "203.0.113.0/24", True),
        ("203.0.113.0/24", "203.0.113.0/24", True),
        ("203.0.113.0/24", "203.0.113.0/25", False),
        ("2001:db8::/48", "2001:db8::/32", True),
        ("2001:db8::/48", "0.0.0.0/0", False),
        ("10.0.0.0/8", "::/0", False),
    ],
)
def test_a_network_is_covered_only_by_one_that_holds_all_of_it(inner: str, outer: str, covered: bool) -> None:
    assert addresses.covered(addresses.network(inner), [addresses.network(outer)]) is covered
