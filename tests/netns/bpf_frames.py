"""Send whole Ethernet frames: bpf_frames.py DEVICE PLAN.json, where PLAN is [[hex, count], ...]."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path


def main() -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((sys.argv[1], 0))
        for text, count in json.loads(Path(sys.argv[2]).read_text()):
            frame = bytes.fromhex(text)
            for _ in range(count):
                sock.send(frame)


if __name__ == "__main__":
    main()
