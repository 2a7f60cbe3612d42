// LiveKit's native clients: its SDKs for Node and Python, whose media stacks are LiveKit's own builds of libwebrtc, in one room with each other and a
// WHIP publisher; and its SDK for Python that looks after rooms.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { AccessToken } from 'livekit-server-sdk';
import { TESTS, serve, until } from '../browser/server.mjs';
import { VENV_PYTHON, endClients, start } from './clients.mjs';

let server;
before(async () => { server = await serve('livekit-native'); });
afterEach(endClients);
after(() => server?.stop());

async function token(room, identity) {
  const made = new AccessToken('devkey', 'secret', { identity, ttl: '10m' });
  made.addGrant({ room, roomJoin: true });
  return made.toJwt();
}

test('native clients see, hear, call and write to each other', { timeout: 120_000 }, async () => {
  const url = server.url.replace('http', 'ws');
  const file = (name) => path.join(TESTS, 'interop', name);
  const python = start('livekit-python', VENV_PYTHON, [file('livekit_client.py'), url, await token('native', 'python'), 24]);
  const node = start('livekit-node', process.execPath, [file('livekit_client.mjs'), url, await token('native', 'node'), 24]);
  await until('both are in the room', 20_000, async () => (await server.room('native'))?.publishers === 2);
  for (const [client, other, greeting] of [[node, 'python', 'hello from python'], [python, 'node', 'hello from node']]) {
    const seen = await client.result();
    const told = JSON.stringify(seen);
    assert.ok(seen.frames[other] > 60, told);
    assert.deepEqual(seen.sizes[other].map((side) => side > 100), [true, true], told);
    assert.ok(seen.sound[other] > 1_000, told);
    assert.ok(seen.data.some(([from, text, topic]) => from === other && text === greeting && topic === 'greeting'), told);
    if (other === 'python') assert.equal(seen.rpc, 'python, node', told);
  }
});

test('the Python SDK looks after rooms, all in protobuf', { timeout: 60_000 }, async () => {
  const code = `
import asyncio, sys
from livekit import api, rtc
async def main():
    async with api.LiveKitAPI(sys.argv[1], "devkey", "secret") as lk:
        room = await lk.room.create_room(api.CreateRoomRequest(name="py", metadata="m", empty_timeout=30))
        listed = await lk.room.list_rooms(api.ListRoomsRequest(names=["py"]))
        print(room.name, [r.metadata for r in listed.rooms])
        try:
            await lk.room.get_participant(api.RoomParticipantIdentity(room="py", identity="nobody"))
        except api.TwirpError as error:
            print(error.code, error.message)
        ada, left, data, told = rtc.Room(), asyncio.Event(), asyncio.Event(), []
        ada.on("disconnected", lambda reason: left.set())
        ada.on("data_received", lambda packet: (told.append(packet.data.decode()), data.set()))
        await ada.connect(sys.argv[1].replace("http", "ws"), sys.argv[2])
        track = rtc.LocalAudioTrack.create_audio_track("tone", rtc.AudioSource(48000, 1))
        publication = await ada.local_participant.publish_track(track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE))
        while not (await lk.room.get_participant(api.RoomParticipantIdentity(room="py", identity="ada"))).tracks:
            await asyncio.sleep(0.1)
        muted = await lk.room.mute_published_track(api.MuteRoomTrackRequest(room="py", identity="ada", track_sid=publication.sid, muted=True))
        changed = await lk.room.update_participant(api.UpdateParticipantRequest(room="py", identity="ada", metadata="a note", attributes={"hand": "up"}))
        await lk.room.update_subscriptions(api.UpdateSubscriptionsRequest(room="py", identity="ada", track_sids=[publication.sid], subscribe=False))
        renamed = await lk.room.update_room_metadata(api.UpdateRoomMetadataRequest(room="py", metadata="another"))
        await lk.room.send_data(api.SendDataRequest(room="py", data=b"from the server", kind=0, destination_identities=["ada"]))
        await asyncio.wait_for(data.wait(), 10)
        people = (await lk.room.list_participants(api.ListParticipantsRequest(room="py"))).participants
        print(muted.track.muted, changed.metadata, dict(changed.attributes), renamed.metadata, told, [(p.identity, p.metadata, len(p.tracks)) for p in people])
        await lk.room.remove_participant(api.RoomParticipantIdentity(room="py", identity="ada"))
        await asyncio.wait_for(left.wait(), 10)
        await lk.room.delete_room(api.DeleteRoomRequest(room="py"))
        print(len((await lk.room.list_rooms(api.ListRoomsRequest(names=["py"]))).rooms))
asyncio.run(main())`;
  const said = execFileSync(VENV_PYTHON, ['-c', code, server.url, await token('py', 'ada')], { encoding: 'utf8', timeout: 50_000 }).trim().split('\n');
  assert.deepEqual(said, ["py ['m']", 'not_found Nobody is in room "py" as "nobody".',
    "True a note {'hand': 'up'} another ['from the server'] [('ada', 'a note', 1)]", '0']);
});
