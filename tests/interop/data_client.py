"""aiortc with data channels, for tests/data.rs: says its offer, is told the answer, says what came back."""

import asyncio
import json
import sys

import aioice.ice
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]


def describe(message):
    if isinstance(message, str):
        return "text:" + (message if len(message) < 100 else str(len(message)))
    return "binary:" + str(len(message))


async def main():
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    reliable = connection.createDataChannel("_reliable")
    lossy = connection.createDataChannel("_lossy", ordered=False, maxRetransmits=0)
    server, echoes, numbers, stray = [], [], [], []
    opened = {channel: asyncio.Event() for channel in (reliable, lossy)}

    @connection.on("datachannel")
    def announced(channel):
        channel.on("message", lambda message: server.append(message))

    for channel, event in opened.items():
        channel.on("open", event.set)
    reliable.on("message", lambda m: numbers.append(int(m[1:])) if isinstance(m, str) and m.startswith("#") else echoes.append(describe(m)))
    lossy.on("message", lambda m: stray.append(int(m)))

    await connection.setLocalDescription(await connection.createOffer())
    print(json.dumps(connection.localDescription.sdp), flush=True)
    answer = json.loads(await asyncio.to_thread(sys.stdin.readline))
    await connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    for event in opened.values():
        await asyncio.wait_for(event.wait(), 30)

    for message in ("téxt", b"binary", "", b"", "x" * 60000, b"x" * 60000):
        reliable.send(message)
    for number in range(300):
        reliable.send(f"#{number}")
        lossy.send(str(number))
        await asyncio.sleep(0.002)
    for _ in range(600):
        if len(echoes) >= 6 and len(numbers) >= 300 and server:
            break
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    print(json.dumps({"server": server, "echoes": echoes, "numbers": numbers, "lossy": stray}), flush=True)
    # Whoever reads that ends this; the channels stay open meanwhile.
    await asyncio.sleep(10)


asyncio.run(main())
