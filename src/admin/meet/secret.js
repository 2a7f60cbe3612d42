// End-to-end encryption: a secret that all who meet share, in the address after the `#` (which no server is sent) or typed in before the
// meeting. Frames and chat are encrypted by livekit-client in a worker; the server passes on what it cannot read.

import { ExternalE2EEKeyProvider, isE2EESupported } from 'livekit-client';

export const secretFromAddress = () => new URLSearchParams(location.hash.slice(1)).get('secret') ?? '';

/** What a link ends with, so that who follows it has the secret. */
export const fragment = (secret) => (secret ? `#${new URLSearchParams({ secret })}` : '');

/** The option for a Room, and what to do before it connects. Without a secret: nothing. */
export function encryption(secret) {
  if (!secret) return { options: {}, start: async () => {} };
  if (!isE2EESupported()) throw new Error('This browser cannot encrypt from end to end. Use a current one, or meet without a secret.');
  const keyProvider = new ExternalE2EEKeyProvider();
  const worker = new Worker('/meet-e2ee.js');
  return {
    options: { encryption: { keyProvider, worker } },
    async start(room) {
      await keyProvider.setKey(secret);
      await room.setE2EEEnabled(true);
    },
    stop: () => worker.terminate(),
  };
}
