"""The servers that this one is compared with, and how to get them."""

import os
import shutil
import socket
from pathlib import Path

from programs import Failure, run

HERE = Path(__file__).resolve().parent
# The newest whose dependencies were all to be had from Go's module proxy.
LIVEKIT = "v1.13.5"


def needs(*programs):
    """Why not, or nothing."""
    missing = [program for program in programs if not shutil.which(program)]
    return f"not installed: {', '.join(missing)}" if missing else None


def pion(context):
    if why := needs("go"):
        return None, why
    program = context.out / "pion-sfu"
    try:
        run(["nice", "go", "build", "-o", str(program), "."], "go build", cwd=HERE / "pion")
    except Failure as error:
        return None, str(error)
    return [str(program)], None


def janus(event_loops):
    def find(_context):
        why = needs("janus", "node")
        return None if why else ["node", str(HERE / "janus" / "adapter.mjs"), str(event_loops)], why

    return find


def str0m(context):
    program = context.binaries / "str0m-sfu"
    return ([str(program)], None) if program.is_file() else (None, f"{program.name} was not built")


def livekit(context):
    if why := needs("go", "node"):
        return None, why
    # Go names the program after its folder.
    folder = context.out / "livekit"
    environment = {**os.environ, "GOBIN": str(folder)}
    try:
        run(["nice", "go", "install", f"github.com/livekit/livekit-server/cmd/server@{LIVEKIT}"], "go install", env=environment)
    except Failure as error:
        return None, str(error)
    return ["node", str(HERE / "livekit" / "adapter.mjs"), str(folder / "server")], None


def mediasoup(_context):
    """Its worker comes from GitHub when npm installs it, and so do the sources that it is built of where it does not."""
    try:
        socket.create_connection(("github.com", 443), timeout=5).close()
    except OSError as error:
        return None, f"npm's package downloads its worker, or what that is built of, from github.com, which cannot be reached: {error}"
    return None, "no adapter here yet: where this was written its worker could not be had"


# Name, what it is, and how to find it: a command, or why there is none.
PEERS = {
    "str0m": ("str0m 0.25, a minimal SFU (ICE lite, RTP mode)", str0m),
    "pion": ("Pion v4, a minimal SFU (ICE lite, its default interceptors)", pion),
    "janus-1": ("Janus videoroom, ICE lite, event_loops = 1", janus(1)),
    "janus": ("Janus videoroom, ICE lite, a thread for each session (its default)", janus(0)),
    "livekit": (f"LiveKit {LIVEKIT}, by its own WHIP endpoint (which turns ICE lite off)", livekit),
    "mediasoup": ("mediasoup", mediasoup),
}
