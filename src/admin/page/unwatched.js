// Simulcast encodings that nobody watches are switched off: the server tells which, as `unwatched` of `GET {session}/layer`.

/** For so long an encoding goes on that nobody watches: a viewer may come back to it. */
const LINGER_MS = 5_000;

export class Switch {
  /** `sender` is the RTCRtpSender of a picture. */
  constructor(sender) {
    this.sender = sender;
    this.since = new Map();
  }

  /** `unwatched` are the rids named now. Whatever is not named is on at once. */
  async follow(unwatched, now = performance.now()) {
    const parameters = this.sender.getParameters();
    let changed = false;
    for (const encoding of parameters.encodings) {
      if (!unwatched.includes(encoding.rid)) this.since.delete(encoding.rid);
      else if (!this.since.has(encoding.rid)) this.since.set(encoding.rid, now);
      const active = !(now - this.since.get(encoding.rid) >= LINGER_MS);
      changed ||= encoding.active !== active;
      encoding.active = active;
    }
    if (changed) await this.sender.setParameters(parameters);
  }
}
