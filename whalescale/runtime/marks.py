"""The mark of our own datagrams, given to what comes back: an nftables table of our own.

A tunnel that is the default route answers by the tunnel whatever has no mark, so a host that asks
"would my answer leave where this came in?" (rp_filter = 1, firewalld's IPv6_rpfilter) drops all
that arrives for us. wg-quick(8) keeps the mark of each flow in the connection tracker and restores
it. Here whatever comes for our port to this host gets it: no tracker, and a peer that speaks first
is heard too (docs/decisions.md, 2026-11-29).

The table belongs to our netlink socket (NFT_TABLE_F_OWNER, Linux 5.12): it goes with us whatever
ends us, and `nft flush ruleset` leaves it alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import struct
from pathlib import Path
from typing import Any, Final

from whalescale.runtime.netlink import os_errors

log = logging.getLogger(__name__)

SRC_VALID_MARK: Final = Path("/proc/sys/net/ipv4/conf/all/src_valid_mark")

#: before the raw table, where reverse-path filters of nft and ip6tables stand at the earliest; and
#: after destination NAT, which may have made our port of another one
PRIORITIES: Final = (-301, -90)
#: <linux/netfilter/nf_tables.h>
TABLE_OWNER: Final = 0x2
FIB_DADDR: Final = 0x2
#: <linux/netfilter/nfnetlink.h>, and NFNL_SUBSYS_NFTABLES
BATCH_BEGIN, BATCH_END, SUBSYSTEM = 0x10, 0x11, 10
#: an answer of the kernel takes no time; a refused batch has none
ANSWER_S: Final = 2.0
#: <linux/rtnetlink.h> RTN_LOCAL
LOCAL: Final = 2


def _expression(name: str, **values: Any) -> dict[str, Any]:
    attributes = [(f"NFTA_{name.upper()}_{k.upper()}", v) for k, v in values.items()]
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", {"attrs": attributes})]}


def _data(value: bytes) -> dict[str, Any]:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def _equal(value: bytes, op: int = 0) -> dict[str, Any]:
    return _expression("cmp", sreg=1, op=op, data=_data(value))


def _rule(*conditions: dict[str, Any], mark: int) -> list[dict[str, Any]]:
    """`meta l4proto udp CONDITIONS fib daddr type local meta mark set MARK`."""
    return [
        _expression("meta", key=16, dreg=1),  # NFT_META_L4PROTO
        _equal(bytes([17])),
        *conditions,
        # pyroute2 takes the result for a set of flags: these two are 3, NFT_FIB_RESULT_ADDRTYPE
        _expression(
            "fib",
            dreg=1,
            result={"NFT_FIB_RESULT_UNSPEC", "NFT_FIB_RESULT_OIF"},
            flags=FIB_DADDR,
        ),
        _equal(struct.pack("=I", LOCAL)),
        _expression("immediate", dreg=1, data=_data(struct.pack("=I", mark))),
        _expression("meta", key=3, sreg=1),  # NFT_META_MARK
    ]


def _rules(mark: int, port: int) -> list[list[dict[str, Any]]]:
    to_port = [
        _expression("payload", dreg=1, base=2, offset=2, len=2),
        _equal(struct.pack("!H", port)),
    ]
    # The rest of an IPv4 datagram in fragments has no port. What its first one is dropped for is
    # never put together, so it gives nobody anything.
    fragment = [
        _expression("meta", key=15, dreg=1),  # NFT_META_NFPROTO
        _equal(bytes([2])),
        _expression("payload", dreg=1, base=1, offset=6, len=2),
        _expression(
            "bitwise", sreg=1, dreg=1, len=2, mask=_data(b"\x1f\xff"), xor=_data(b"\x00\x00")
        ),
        _equal(b"\x00\x00", op=1),
    ]
    return [_rule(*to_port, mark=mark), _rule(*fragment, mark=mark)]


class Marks:
    """The table `whalescale-NAME` (family inet). `open` it before privileges are dropped."""

    def __init__(self, name: str) -> None:
        self.table = f"whalescale-{name}"
        self._nft: Any = None
        self._sysctl = -1
        self._owner = True
        #: (mark, port) of the table
        self.put_last: tuple[int, int] | None = None
        self.made_valid = False

    async def open(self) -> None:
        """Open what later changes go through. What a kernel lacks is told when it is needed."""
        from pyroute2.netlink.nfnetlink.nftsocket import AsyncNFTSocket

        with contextlib.suppress(OSError):
            # Held open: later no file of /proc can be opened for writing any more.
            self._sysctl = os.open(SRC_VALID_MARK, os.O_RDWR | os.O_CLOEXEC)
        try:
            nft = AsyncNFTSocket(nfgen_family=1)
            await nft.setup_endpoint()
        except OSError as e:
            log.info("no nftables here: %s", e.strerror or e)
            return
        self._nft = nft

    def close(self) -> None:
        """The kernel takes the table away with the socket."""
        if self._nft is not None:
            self._nft.close()
            self._nft = None
        if self._sysctl >= 0:
            os.close(self._sysctl)
            self._sysctl = -1

    # net.ipv4.conf.all.src_valid_mark

    @property
    def valid(self) -> bool:
        """Whether IPv4's reverse-path filter looks at the mark."""
        return self._sysctl >= 0 and os.pread(self._sysctl, 16, 0).strip() == b"1"

    def make_valid(self) -> None:
        """OSError: it could not be set; hosts with rp_filter = 1 drop what comes for us."""
        if self._sysctl < 0:
            raise OSError(errno.EACCES, "net.ipv4.conf.all.src_valid_mark cannot be written")
        os.pwrite(self._sysctl, b"1\n", 0)
        self.made_valid = True

    # the table

    async def put(self, mark: int, port: int) -> None:
        """Make the table anew, as one change. OSError: the kernel refuses it; nothing changed."""
        try:
            await self._batch(self._make(mark, port, TABLE_OWNER if self._owner else 0))
        except OSError as e:
            if not self._owner or e.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            self._owner = False  # before Linux 5.12
            await self._batch(self._make(mark, port, 0))
        self.put_last = mark, port

    async def remove(self) -> None:
        """Idempotent."""
        if self.put_last is None:
            return
        table = {"name": self.table}
        create = self._message("table", table, create=True)
        await self._batch([create, self._message("table", table, delete=True)])
        self.put_last = None

    async def found(self) -> tuple[int, int] | None:
        """(mark, port) of the table, None where it is not there as it was put."""
        if self.put_last is None or await self._rules() != len(PRIORITIES) * len(_rules(0, 0)):
            return None
        return self.put_last

    async def _rules(self) -> int:
        """How many rules stand in the table."""
        from pyroute2.netlink.nfnetlink.nftsocket import NFT_MSG_GETRULE

        message = self._message("rule", {"table": self.table})
        with _os_errors("nftables"):
            found = 0
            async with asyncio.timeout(ANSWER_S):
                async for rule in await self._nft.request_get(message, NFT_MSG_GETRULE):
                    found += rule.get("NFTA_RULE_TABLE") == self.table
        return found

    def _make(self, mark: int, port: int, flags: int) -> list[Any]:
        name = {"name": self.table}
        messages = [
            # That of a killed agent, where tables have no owner.
            self._message("table", {**name, "flags": flags}, create=True),
            self._message("table", name, delete=True),
            self._message("table", {**name, "flags": flags}, create=True),
        ]
        for priority in PRIORITIES:
            chain = "early" if priority < -100 else "late"
            hook = {"attrs": [("NFTA_HOOK_HOOKNUM", 0), ("NFTA_HOOK_PRIORITY", priority)]}
            chained = {"table": self.table, "name": chain, "hook": hook, "type": "filter"}
            messages.append(self._message("chain", chained, create=True))
            messages += [
                self._message(
                    "rule",
                    {"table": self.table, "chain": chain, "expressions": rule},
                    create=True,
                )
                for rule in _rules(mark, port)
            ]
        return messages

    @staticmethod
    def _message(
        kind: str, values: dict[str, Any], *, create: bool = False, delete: bool = False
    ) -> Any:
        from pyroute2.netlink import NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST
        from pyroute2.netlink.nfnetlink import nftsocket

        classes = {
            "table": nftsocket.nft_table_msg,
            "chain": nftsocket.nft_chain_msg,
            "rule": nftsocket.nft_rule_msg,
        }
        message = classes[kind]()
        message["attrs"] = [(message.name2nla(key), value) for key, value in values.items()]
        number = getattr(nftsocket, f"NFT_MSG_{'DEL' if delete else 'NEW'}{kind.upper()}")
        flags = NLM_F_REQUEST | NLM_F_ACK | (NLM_F_CREATE | NLM_F_APPEND if create else 0)
        message["header"]["type"] = SUBSYSTEM << 8 | number
        message["header"]["flags"] = flags
        message["nfgen_family"] = 1  # NFPROTO_INET
        return message

    async def _batch(self, messages: list[Any]) -> None:
        from pyroute2.netlink import NLM_F_REQUEST
        from pyroute2.netlink.nfnetlink import nfgen_msg

        if self._nft is None:
            raise OSError(errno.EOPNOTSUPP, "this kernel has no nftables")

        def end(number: int) -> Any:
            message = nfgen_msg()
            message["res_id"] = SUBSYSTEM
            message["header"]["type"] = number
            message["header"]["flags"] = NLM_F_REQUEST
            return message

        whole = [end(BATCH_BEGIN), *messages, end(BATCH_END)]
        with _os_errors("nftables"):
            async with asyncio.timeout(ANSWER_S):
                async for _ in self._nft.nlm_request_batch(whole):
                    pass


@contextlib.contextmanager
def _os_errors(what: str) -> Any:
    with os_errors(what):
        try:
            yield
        except TimeoutError:
            raise OSError(errno.EIO, f"{what}: no answer") from None
