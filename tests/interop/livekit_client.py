"""A member of a room by LiveKit's SDK for Python, whose media are LiveKit's own native code: publishes a moving picture, a tone and data, and
counts what comes of each of the others. Prints it as JSON and leaves.

    livekit_client.py URL TOKEN SECONDS
"""

import asyncio
import json
import math
import sys

import numpy
from livekit import rtc

WIDTH, HEIGHT, RATE = 640, 360, 48_000
seen = {"frames": {}, "sizes": {}, "sound": {}, "data": [], "rpc": None}


async def picture(source):
    for number in range(10_000):
        frame = numpy.zeros((HEIGHT, WIDTH, 4), dtype=numpy.uint8)
        frame[:, :, 3] = 255
        at = number * 8 % WIDTH
        frame[:, at : at + 40, :3] = 255
        source.capture_frame(rtc.VideoFrame(WIDTH, HEIGHT, rtc.VideoBufferType.RGBA, frame.tobytes()))
        await asyncio.sleep(1 / 15)


async def tone(source):
    samples = RATE // 50
    for number in range(10_000):
        phase = (numpy.arange(samples) + number * samples) * (2 * math.pi * 440 / RATE)
        frame = (numpy.sin(phase) * 8_000).astype(numpy.int16)
        await source.capture_frame(rtc.AudioFrame(frame.tobytes(), RATE, 1, samples))


async def watch(track, identity):
    async for event in rtc.VideoStream(track):
        seen["frames"][identity] = seen["frames"].get(identity, 0) + 1
        seen["sizes"][identity] = [event.frame.width, event.frame.height]


async def listen(track, identity):
    async for event in rtc.AudioStream(track):
        loud = float(numpy.abs(numpy.frombuffer(event.frame.data, dtype=numpy.int16)).mean())
        seen["sound"][identity] = max(loud, seen["sound"].get(identity, 0.0))


async def main(url, token, seconds):
    room, tasks = rtc.Room(), []

    @room.on("track_subscribed")
    def subscribed(track, _publication, participant):
        take = watch if track.kind == rtc.TrackKind.KIND_VIDEO else listen
        tasks.append(asyncio.create_task(take(track, participant.identity)))

    @room.on("data_received")
    def received(packet):
        seen["data"].append([packet.participant.identity if packet.participant else None, packet.data.decode(), packet.topic])

    await room.connect(url, token)

    @room.local_participant.register_rpc_method("who")
    async def who(call):
        return f"python, {call.caller_identity}"

    video, audio = rtc.VideoSource(WIDTH, HEIGHT), rtc.AudioSource(RATE, 1)
    for track, source in [
        (rtc.LocalVideoTrack.create_video_track("picture", video), rtc.TrackSource.SOURCE_CAMERA),
        (rtc.LocalAudioTrack.create_audio_track("tone", audio), rtc.TrackSource.SOURCE_MICROPHONE),
    ]:
        await room.local_participant.publish_track(track, rtc.TrackPublishOptions(source=source))
    tasks += [asyncio.create_task(picture(video)), asyncio.create_task(tone(audio))]
    await asyncio.sleep(seconds / 2)
    await room.local_participant.publish_data("hello from python", reliable=True, topic="greeting")
    await asyncio.sleep(seconds / 2)
    for task in tasks:
        task.cancel()
    await room.disconnect()
    print(json.dumps(seen))


asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
