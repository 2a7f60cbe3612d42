"""aiortc as a WHEP viewer or a WHIP publisher.

    aiortc_client.py watch URL SECONDS      prints what it decoded as one JSON line
    aiortc_client.py publish URL CODEC      publishes until it is ended
"""

import asyncio
import fractions
import math
import sys

import aioice.ice
import av
import numpy
from aiortc import AudioStreamTrack, RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription, VideoStreamTrack
from webrtc_http import leave, negotiate, report

# Tests stay on the loopback, which aioice leaves out by itself.
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]


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
    asyncio.run(watch(url, float(argument)) if action == "watch" else publish(url, argument))
