"""aiortc as a WHEP viewer or a WHIP publisher.

    aiortc_client.py watch URL SECONDS      prints what it decoded as one JSON line
    aiortc_client.py claps URL SECONDS      the same; prints when it saw flashes and heard beeps
    aiortc_client.py publish URL CODEC      publishes until it is ended
"""

import asyncio
import fractions
import math
import os
import sys
import time

import aioice.ice
import av
import numpy
from aiortc import rtcrtpreceiver
from aiortc import AudioStreamTrack, RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription, VideoStreamTrack
from webrtc_http import leave, negotiate, report

# Tests stay on the loopback, which aioice leaves out by itself, unless they say otherwise.
ADDRESS = os.environ.get("DISTRIBUTARY_CLIENT_ADDRESS", "127.0.0.1")
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: [ADDRESS]


async def exchange(connection, url):
    await connection.setLocalDescription(await connection.createOffer())
    answer, location = await asyncio.to_thread(negotiate, url, connection.localDescription.sdp)
    await connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    return location


class Eyes:
    """Counts decoded frames and how many of them differ from the one before."""

    def __init__(self):
        self.decoded = 0
        self.changed = 0
        self.brightness = 0.0
        self.size = None
        self.last = None

    async def watch(self, track):
        while True:
            frame = await track.recv()
            luma = frame.to_ndarray(format="gray").astype(numpy.int16)
            self.decoded += 1
            self.size = [frame.width, frame.height]
            self.brightness = float(luma.mean())
            if self.last is not None and self.last.shape == luma.shape:
                self.changed += int((abs(luma - self.last) > 12).mean() > 0.002)
            self.last = luma


class Ears:
    """The loudest RMS of a decoded audio frame, 1.0 being full scale."""

    def __init__(self):
        self.frames = 0
        self.loudness = 0.0

    async def watch(self, track):
        while True:
            samples = (await track.recv()).to_ndarray().astype(numpy.float64) / 32768
            self.frames += 1
            self.loudness = max(self.loudness, float(numpy.sqrt((samples**2).mean())))


async def watch(url, seconds):
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    eyes, ears, tasks = Eyes(), Ears(), []

    @connection.on("track")
    def on_track(track):
        tasks.append(asyncio.ensure_future((eyes if track.kind == "video" else ears).watch(track)))

    connection.addTransceiver("audio", direction="recvonly")
    connection.addTransceiver("video", direction="recvonly")
    location = await exchange(connection, url)
    await asyncio.sleep(seconds)
    report(
        state=connection.connectionState, decoded=eyes.decoded, changed=eyes.changed, brightness=eyes.brightness,
        size=eyes.size, audio_frames=ears.frames, loudness=ears.loudness,
    )
    for task in tasks:
        task.cancel()
    await asyncio.to_thread(leave, location)
    await connection.close()


class Clock:
    """The sender's time of RTP timestamps, as its last sender reports tell it (RFC 3550 §6.4.1)."""

    def __init__(self):
        self.reports = {}
        receiver = rtcrtpreceiver.RTCRtpReceiver
        handle = receiver._handle_rtcp_packet

        async def noted(this, packet):
            if isinstance(packet, rtcrtpreceiver.RtcpSrPacket):
                info = packet.sender_info
                self.reports[this._RTCRtpReceiver__kind] = info.ntp_timestamp / 2**32, info.rtp_timestamp
            await handle(this, packet)

        receiver._handle_rtcp_packet = noted
        # Frames keep the timestamps of their packets.
        rtcrtpreceiver.TimestampMapper.map = lambda _, timestamp: timestamp

    def at(self, kind, timestamp, rate):
        if kind not in self.reports:
            return None
        ntp, reported = self.reports[kind]
        return ntp + ((timestamp - reported + 2**31) % 2**32 - 2**31) / rate


class Claps:
    """When flashes and beeps began, in the sender's time: pairs of (seconds since the start, sender's time)."""

    def __init__(self, clock):
        self.clock = clock
        self.begin = time.monotonic()
        self.flashes, self.beeps = [], []
        self.bright = True

    def note(self, where, at):
        if at is not None:
            where.append((time.monotonic() - self.begin, at))

    async def see(self, track):
        while True:
            frame = await track.recv()
            bright = frame.to_ndarray(format="gray").mean() > 128
            if bright and not self.bright:
                self.note(self.flashes, self.clock.at("video", frame.pts, 90000))
            self.bright = bright

    async def hear(self, track):
        quiet = 0
        while True:
            frame = await track.recv()
            samples = abs(frame.to_ndarray().reshape(-1, len(frame.layout.channels))[:, 0].astype(int))
            loud = numpy.flatnonzero(samples > 3000)
            if len(loud) == 0:
                quiet += 1
            else:
                if quiet >= 10:
                    self.note(self.beeps, self.clock.at("audio", frame.pts + int(loud[0]), 48000))
                quiet = 0

    def pairs(self):
        """(seconds since the start, flash after beep in ms) of each flash with the beep next to it."""
        found = []
        for seen, flash in self.flashes:
            offset = min((flash - beep for heard, beep in self.beeps if abs(heard - seen) < 0.9), key=abs, default=None)
            if offset is not None:
                found.append((round(seen, 2), round(offset * 1000, 1)))
        return found


async def watch_claps(url, seconds):
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    claps, tasks = Claps(Clock()), []

    @connection.on("track")
    def on_track(track):
        tasks.append(asyncio.ensure_future(claps.see(track) if track.kind == "video" else claps.hear(track)))

    connection.addTransceiver("audio", direction="recvonly")
    connection.addTransceiver("video", direction="recvonly")
    location = await exchange(connection, url)
    await asyncio.sleep(seconds)
    report(flashes=len(claps.flashes), beeps=len(claps.beeps), pairs=claps.pairs())
    for task in tasks:
        task.cancel()
    await asyncio.to_thread(leave, location)
    await connection.close()


class Ball(VideoStreamTrack):
    """A bright square that goes round over a grey ramp."""

    width, height = 640, 360

    async def recv(self):
        pts, time_base = await self.next_timestamp()
        picture = numpy.tile(numpy.linspace(60, 180, self.width, dtype=numpy.uint8), (self.height, 1))
        phase = pts / 90000 * 2
        x = int((math.cos(phase) + 1) / 2 * (self.width - 120))
        y = int((math.sin(phase) + 1) / 2 * (self.height - 120))
        picture[y : y + 120, x : x + 120] = 250
        frame = av.VideoFrame.from_ndarray(numpy.dstack([picture] * 3), format="rgb24")
        frame.pts, frame.time_base = pts, time_base
        return frame


class Tone(AudioStreamTrack):
    """440 Hz at a third of full scale."""

    async def recv(self):
        silence = await super().recv()
        rate, count = silence.sample_rate, silence.samples
        time = (silence.pts + numpy.arange(count)) / rate
        samples = (numpy.sin(2 * math.pi * 440 * time) * 11000).astype(numpy.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, silence.pts, fractions.Fraction(1, rate)
        return frame


async def publish(url, codec):
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    connection.addTransceiver(Tone(), direction="sendonly")
    video = connection.addTransceiver(Ball(), direction="sendonly")
    all_codecs = RTCRtpSender.getCapabilities("video").codecs
    video.setCodecPreferences([c for c in all_codecs if c.mimeType.lower() in (f"video/{codec}".lower(), "video/rtx")])
    await exchange(connection, url)
    await asyncio.sleep(120)


if __name__ == "__main__":
    _, action, url, argument = sys.argv
    if action == "publish":
        asyncio.run(publish(url, argument))
    else:
        asyncio.run({"watch": watch, "claps": watch_claps}[action](url, float(argument)))
