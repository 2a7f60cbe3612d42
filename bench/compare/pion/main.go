// A minimal SFU on Pion, to compare with: one room, WHIP and WHEP over plain HTTP. As Pion's own examples do it: a
// TrackLocalStaticRTP for each of the publisher's tracks, the default codecs and interceptors; ICE lite besides.
//
// It prints "listening on ADDRESS" when it is ready.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/interceptor"
	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v4"
)

// One key frame serves all who joined meanwhile.
const keyFrameInterval = 500 * time.Millisecond

type room struct {
	api *webrtc.API

	mutex     sync.Mutex
	publisher *webrtc.PeerConnection
	tracks    map[webrtc.RTPCodecType]*webrtc.TrackLocalStaticRTP
	videoSSRC webrtc.SSRC
	keyFrame  time.Time
}

func newAPI() (*webrtc.API, error) {
	media := &webrtc.MediaEngine{}
	if err := media.RegisterDefaultCodecs(); err != nil {
		return nil, err
	}
	interceptors := &interceptor.Registry{}
	if err := webrtc.RegisterDefaultInterceptors(media, interceptors); err != nil {
		return nil, err
	}
	settings := webrtc.SettingEngine{}
	settings.SetLite(true)
	settings.SetIncludeLoopbackCandidate(true)
	settings.SetIPFilter(func(ip net.IP) bool { return ip.IsLoopback() })
	settings.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	settings.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	return webrtc.NewAPI(
		webrtc.WithMediaEngine(media), webrtc.WithInterceptorRegistry(interceptors), webrtc.WithSettingEngine(settings),
	), nil
}

// answer accepts an offer and waits for the candidates.
func answer(connection *webrtc.PeerConnection, offer string) (string, error) {
	err := connection.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: offer})
	if err != nil {
		return "", err
	}
	description, err := connection.CreateAnswer(nil)
	if err != nil {
		return "", err
	}
	gathered := webrtc.GatheringCompletePromise(connection)
	if err := connection.SetLocalDescription(description); err != nil {
		return "", err
	}
	<-gathered
	return connection.LocalDescription().SDP, nil
}

func (r *room) publish(offer string) (string, error) {
	connection, err := r.api.NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		return "", err
	}
	r.mutex.Lock()
	r.publisher = connection
	r.mutex.Unlock()
	connection.OnTrack(func(remote *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
		track, err := r.track(remote.Kind())
		if err != nil {
			return
		}
		if remote.Kind() == webrtc.RTPCodecTypeVideo {
			r.mutex.Lock()
			r.videoSSRC = remote.SSRC()
			r.mutex.Unlock()
		}
		for {
			packet, _, err := remote.ReadRTP()
			if err != nil {
				return
			}
			// A viewer that is gone must not end it for the others.
			if err := track.WriteRTP(packet); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	})
	return answer(connection, offer)
}

// track gives what viewers get of one kind; it may be watched before it is published.
func (r *room) track(kind webrtc.RTPCodecType) (*webrtc.TrackLocalStaticRTP, error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if track := r.tracks[kind]; track != nil {
		return track, nil
	}
	capability := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8}
	if kind == webrtc.RTPCodecTypeAudio {
		capability.MimeType = webrtc.MimeTypeOpus
	}
	track, err := webrtc.NewTrackLocalStaticRTP(capability, kind.String(), "load")
	r.tracks[kind] = track
	return track, err
}

func (r *room) watch(offer string) (string, error) {
	connection, err := r.api.NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		return "", err
	}
	for _, kind := range []webrtc.RTPCodecType{webrtc.RTPCodecTypeAudio, webrtc.RTPCodecTypeVideo} {
		if !strings.Contains(offer, "m="+kind.String()+" ") {
			continue
		}
		track, err := r.track(kind)
		if err != nil {
			return "", err
		}
		sender, err := connection.AddTrack(track)
		if err != nil {
			return "", err
		}
		go r.readReports(sender)
	}
	connection.OnConnectionStateChange(func(state webrtc.PeerConnectionState) {
		switch state {
		case webrtc.PeerConnectionStateConnected:
			r.askForKeyFrame()
		case webrtc.PeerConnectionStateFailed:
			_ = connection.Close()
		}
	})
	return answer(connection, offer)
}

// readReports keeps the interceptors running, and passes requests for key frames on.
func (r *room) readReports(sender *webrtc.RTPSender) {
	for {
		packets, _, err := sender.ReadRTCP()
		if err != nil {
			return
		}
		for _, packet := range packets {
			switch packet.(type) {
			case *rtcp.PictureLossIndication, *rtcp.FullIntraRequest:
				r.askForKeyFrame()
			}
		}
	}
}

func (r *room) askForKeyFrame() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.publisher == nil || r.videoSSRC == 0 || time.Since(r.keyFrame) < keyFrameInterval {
		return
	}
	r.keyFrame = time.Now()
	_ = r.publisher.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: uint32(r.videoSSRC)}})
}

func (r *room) ServeHTTP(response http.ResponseWriter, request *http.Request) {
	if request.Method != http.MethodPost {
		// Sessions end by their consent; nobody waits for that in a comparison.
		return
	}
	offer, err := io.ReadAll(io.LimitReader(request.Body, 1<<20))
	if err != nil {
		http.Error(response, err.Error(), http.StatusBadRequest)
		return
	}
	join := r.watch
	if strings.HasPrefix(request.URL.Path, "/whip") {
		join = r.publish
	}
	sdp, err := join(string(offer))
	if err != nil {
		http.Error(response, err.Error(), http.StatusBadRequest)
		return
	}
	response.Header().Set("Content-Type", "application/sdp")
	response.Header().Set("Location", "/session")
	response.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(response, sdp)
}

func main() {
	api, err := newAPI()
	if err == nil {
		var listener net.Listener
		if listener, err = net.Listen("tcp", "127.0.0.1:0"); err == nil {
			fmt.Println("listening on", listener.Addr())
			err = http.Serve(listener, &room{api: api, tracks: map[webrtc.RTPCodecType]*webrtc.TrackLocalStaticRTP{}})
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
