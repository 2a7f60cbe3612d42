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

test('the Python SDK looks after rooms', { timeout: 60_000 }, () => {
  const code = `
import asyncio, sys
from livekit import api
async def main():
    async with api.LiveKitAPI(sys.argv[1], "devkey", "secret") as lk:
        room = await lk.room.create_room(api.CreateRoomRequest(name="py", metadata="m", empty_timeout=30))
        listed = await lk.room.list_rooms(api.ListRoomsRequest(names=["py"]))
        try:
            await lk.room.get_participant(api.RoomParticipantIdentity(room="py", identity="nobody"))
        except api.TwirpError as error:
            print(error.code, error.message)
        await lk.room.delete_room(api.DeleteRoomRequest(room="py"))
        left = await lk.room.list_rooms(api.ListRoomsRequest(names=["py"]))
        print(room.name, [r.metadata for r in listed.rooms], len(left.rooms))
asyncio.run(main())`;
  const said = execFileSync(VENV_PYTHON, ['-c', code, server.url], { encoding: 'utf8', timeout: 50_000 }).trim().split('\n');
  assert.deepEqual(said, ['not_found Nobody is in room "py" as "nobody".', "py ['m'] 0"]);
});
