"""The data plane as the configuration asks for it and this kernel allows."""

from __future__ import annotations

import logging
import os
from typing import Final

from whalescale.config import Config
from whalescale.dataplane import probe
from whalescale.dataplane.engine import Backend, Cipher, Engine, Offload
from whalescale.dataplane.selftest import uring_parts
from whalescale.identity import PlainIdentity
from whalescale.protocol import bootstrap
from whalescale.runtime import process
from whalescale.runtime.errors import AgentError
from whalescale.runtime.tun import Tun

log = logging.getLogger(__name__)

_BACKENDS: Final = {"auto": Backend.AUTO, "mmsg": Backend.MMSG, "io_uring": Backend.URING}
_CIPHERS: Final = {
    "auto": Cipher.AUTO,
    "ipsec-mb": Cipher.IPSEC_MB,
    "openssl": Cipher.OPENSSL,
}


def new_engine(identity: PlainIdentity, config: Config, tun: Tun, fwmark: int) -> Engine:
    """For this device, which is closed if there cannot be one. AgentError says why."""
    plane = config.dataplane
    if plane.pin_cpus and not process.may_pin_cpus():
        log.warning("pin_cpus: not allowed here; SystemCallFilter=sched_setaffinity does it")
    off = Offload.NONE
    for offload in (o for o in Offload if o is not Offload.NONE):
        if not getattr(plane, str(offload.name).lower()):
            off |= offload
    if not tun.uso:
        off |= Offload.TUN_USO
    try:
        engine = Engine(
            public_key=identity.static_public,
            bootstrap_key=bootstrap.own_mac_key(identity.fingerprint, os.urandom),
            mtu=config.interface.mtu,
            workers=plane.workers,
            backend=choose_backend(plane.backend),
            cipher=_CIPHERS[plane.cipher],
            offloads_off=off,
            fwmark=fwmark,
            pin_cpus=plane.pin_cpus,
            busy_poll_us=plane.busy_poll_us,
        )
    except AgentError:
        tun.close()
        raise
    except OSError as e:
        tun.close()
        raise AgentError(
            f"data plane: {e}", f"change [dataplane] in {config.path}, or see `ws doctor`"
        ) from None
    return engine


def choose_backend(wanted: str) -> Backend:
    """What [dataplane] backend comes to on this kernel. AgentError: asked for and not there."""
    backend = _BACKENDS[wanted]
    if backend is Backend.MMSG:
        return backend
    found = probe.io_uring()
    error = 0 if found.problem else uring_parts()[0]
    if error:
        problem = f"a part of it is missing ({os.strerror(error)})"
        found = probe.IoUring(0, problem, "`ws doctor` says which; use Linux 6.1 or newer")
    if not found.problem:
        return backend
    if backend is Backend.URING:
        raise AgentError(
            f"[dataplane] backend = {wanted}: {found.problem}", f'{found.fix}, or "auto"'
        )
    log.info("io_uring: %s; recvmmsg and sendmmsg stand in", found.problem)
    return Backend.MMSG
