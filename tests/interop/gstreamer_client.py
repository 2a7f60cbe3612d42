"""GStreamer's webrtcbin as a WHIP publisher or a WHEP viewer (Debian's python3-gi; no whipsink needed).

    gstreamer_client.py publish URL         publishes VP8 and Opus until it is ended
    gstreamer_client.py clap URL            the same, but flashes and beeps at the same moments, once a second
    gstreamer_client.py watch URL SECONDS   prints what it decoded as one JSON line

Its DTLS certificate is RSA, and its DTLS is OpenSSL's 1.2.
"""

import array
import math
import signal
import sys
import threading
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402
from webrtc_http import leave, negotiate, report  # noqa: E402

SOURCES = """
    videotestsrc is-live=true pattern=ball background-color=0xff406080 ! video/x-raw,width=640,height=360,framerate=25/1 ! videoconvert
      ! vp8enc deadline=1 cpu-used=8 target-bitrate=800000 keyframe-max-dist=100 ! rtpvp8pay picture-id-mode=15-bit
      ! application/x-rtp,media=video,encoding-name=VP8,payload=96,clock-rate=90000 ! rtc.
    audiotestsrc is-live=true wave=sine freq=440 volume=0.3 ! audioconvert ! audioresample ! opusenc ! rtpopuspay
      ! application/x-rtp,media=audio,encoding-name=OPUS,payload=97,clock-rate=48000 ! rtc.
"""

CLAPPERBOARD = """
    appsrc name=picture is-live=true format=time caps=video/x-raw,format=I420,width=160,height=90,framerate=25/1
      ! vp8enc deadline=1 cpu-used=8 keyframe-max-dist=50 ! rtpvp8pay picture-id-mode=15-bit
      ! application/x-rtp,media=video,encoding-name=VP8,payload=96,clock-rate=90000 ! rtc.
    appsrc name=sound is-live=true format=time caps=audio/x-raw,format=S16LE,layout=interleaved,rate=48000,channels=1
      ! audioconvert ! opusenc ! rtpopuspay
      ! application/x-rtp,media=audio,encoding-name=OPUS,payload=97,clock-rate=48000 ! rtc.
"""


class Client:
    def __init__(self, url, sources=""):
        self.url = url
        self.location = None
        self.loop = GLib.MainLoop()
        self.pipeline = Gst.parse_launch(f"pipeline. ( webrtcbin name=rtc bundle-policy=max-bundle {sources} )")
        self.rtc = self.pipeline.get_by_name("rtc")
        # Tests stay on the loopback, which libnice leaves out by itself. The reference is kept because webrtcbin hands out a
        # floating one: letting go of it would free the agent under the element.
        self.ice = self.rtc.get_property("ice-agent")
        self.ice.emit("add-local-ip-address", "127.0.0.1")
        self.rtc.connect("on-negotiation-needed", self.offer)
        self.rtc.connect("notify::ice-gathering-state", self.gathered)
        bus = self.pipeline.get_bus()
        bus.add_signal_watch()
        bus.connect("message::error", self.failed)
        self.posted = False
        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGTERM, self.loop.quit)

    def run(self):
        self.pipeline.set_state(Gst.State.PLAYING)
        self.loop.run()
        self.pipeline.set_state(Gst.State.NULL)
        if self.location:
            leave(self.location)

    def failed(self, _bus, message):
        print(message.parse_error(), file=sys.stderr, flush=True)
        sys.exit(1)

    def offer(self, _rtc):
        self.rtc.emit("create-offer", None, Gst.Promise.new_with_change_func(self.offered))

    def offered(self, promise):
        promise.wait()
        reply = promise.get_reply()  # owns the offer: it has to outlive it
        offer = reply.get_value("offer")
        self.rtc.emit("set-local-description", offer, Gst.Promise.new())

    def gathered(self, rtc, _property):
        if rtc.get_property("ice-gathering-state") == GstWebRTC.WebRTCICEGatheringState.COMPLETE and not self.posted:
            self.posted = True
            GLib.idle_add(self.post)

    def post(self):
        offer = self.rtc.get_property("local-description").sdp.as_text()
        print(offer, file=sys.stderr, flush=True)
        answer, self.location = negotiate(self.url, offer)
        print(answer, file=sys.stderr, flush=True)
        _, message = GstSdp.SDPMessage.new_from_text(answer)
        description = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, message)
        self.rtc.emit("set-remote-description", description, Gst.Promise.new())
        return False


class Clapper(Client):
    """Flash and beep of 120 ms, with exactly the same timestamps; its sender reports tell the time of capture."""

    def __init__(self, url):
        super().__init__(url, CLAPPERBOARD)
        self.rtc.get_by_name("rtpbin").set_property("rtcp-sync-send-time", False)
        threading.Thread(target=self.clap, daemon=True).start()

    def clap(self):
        dark, bright = (bytes([luma]) * (160 * 90) + bytes([128]) * (160 * 90 // 2) for luma in (16, 235))
        beep = array.array("h", (int(9000 * math.sin(2 * math.pi * 1000 * n / 48000)) for n in range(960))).tobytes()
        silence = bytes(len(beep))
        while not (clock := self.pipeline.get_clock()):
            time.sleep(0.01)
        begin = clock.get_time() - self.pipeline.get_base_time()
        for tick in range(100_000):
            # 20 ms each: sound every time, a picture every other time.
            at = begin + tick * 20 * Gst.MSECOND
            while clock.get_time() - self.pipeline.get_base_time() < at:
                time.sleep(0.002)
            now = tick % 50 < 6
            self.push("sound", beep if now else silence, at, 20)
            if tick % 2 == 0:
                self.push("picture", bright if now else dark, at, 40)

    def push(self, name, contents, at, millis):
        buffer = Gst.Buffer.new_wrapped(contents)
        buffer.pts, buffer.duration = at, millis * Gst.MSECOND
        self.pipeline.get_by_name(name).emit("push-buffer", buffer)


class Viewer(Client):
    """Decodes VP8 and Opus; counts frames and how many differ from the one before."""

    def __init__(self, url, seconds):
        super().__init__(url)
        self.seconds = seconds
        self.decoded = self.changed = self.audio_buffers = 0
        self.brightness = self.loudness = 0.0
        self.last = None
        self.rtc.connect("pad-added", self.pad_added)
        for caps in (
            "application/x-rtp,media=audio,encoding-name=OPUS,payload=97,clock-rate=48000",
            "application/x-rtp,media=video,encoding-name=VP8,payload=96,clock-rate=90000,rtcp-fb-nack=(boolean)true,rtcp-fb-nack-pli=(boolean)true",
        ):
            self.rtc.emit("add-transceiver", GstWebRTC.WebRTCRTPTransceiverDirection.RECVONLY, Gst.Caps.from_string(caps))

    def run(self):
        GLib.timeout_add_seconds(self.seconds, self.done)
        super().run()

    def done(self):
        report(
            decoded=self.decoded, changed=self.changed, brightness=self.brightness,
            audio_buffers=self.audio_buffers, loudness=self.loudness,
        )
        self.loop.quit()
        return False

    def pad_added(self, _rtc, pad):
        if pad.direction != Gst.PadDirection.SRC:
            return
        video = pad.get_current_caps().get_structure(0).get_string("media") == "video"
        description = (
            "queue ! rtpvp8depay ! vp8dec ! videoconvert ! videoscale ! video/x-raw,format=GRAY8,width=96,height=54 ! appsink name=sink"
            if video
            else "queue ! rtpopusdepay ! opusdec ! audioconvert ! audio/x-raw,format=S16LE ! appsink name=sink"
        )
        branch = Gst.parse_bin_from_description(f"{description} sync=false emit-signals=true max-buffers=50 drop=true", True)
        branch.get_by_name("sink").connect("new-sample", self.frame if video else self.sound)
        self.pipeline.add(branch)
        branch.sync_state_with_parent()
        pad.link(branch.get_static_pad("sink"))

    def bytes_of(self, sink):
        buffer = sink.emit("pull-sample").get_buffer()
        return buffer.extract_dup(0, buffer.get_size())

    def frame(self, sink):
        luma = self.bytes_of(sink)
        self.decoded += 1
        self.brightness = sum(luma) / len(luma)
        if self.last is not None:
            self.changed += sum(abs(a - b) > 12 for a, b in zip(luma, self.last)) > len(luma) * 0.002
        self.last = luma
        return Gst.FlowReturn.OK

    def sound(self, sink):
        samples = memoryview(self.bytes_of(sink)).cast("h")
        self.audio_buffers += 1
        self.loudness = max(self.loudness, max((abs(s) for s in samples), default=0) / 32768)
        return Gst.FlowReturn.OK


if __name__ == "__main__":
    Gst.init(None)
    if sys.argv[1] == "watch":
        Viewer(sys.argv[2], int(sys.argv[3])).run()
    elif sys.argv[1] == "clap":
        Clapper(sys.argv[2]).run()
    else:
        Client(sys.argv[2], SOURCES).run()
