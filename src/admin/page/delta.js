// The river delta: one stream in, branch by branch, very many out. Its geometry draws the idle stage and the test picture.

const LEVELS = 4;
const COLUMNS = [-0.02, 0.24, 0.45, 0.63, 0.8, 0.95];

/** A small seeded generator, so that the delta has the same shape on every machine. */
function seeded(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/**
 * Lays the delta out in a `width` × `height` box. `channels` are cubic curves with their depth in the tree;
 * `routes` are the ways from the source to each mouth, as lists of channels.
 */
export function layOut(width, height) {
  const random = seeded(11);
  const jitter = (amount) => (random() - 0.5) * amount;
  const count = 2 ** LEVELS;
  const gap = (height * 0.9) / (count - 1);
  let row = Array.from({ length: count }, (_, i) => ({
    x: width * (COLUMNS[LEVELS + 1] + jitter(0.06)),
    y: height * 0.05 + gap * i + jitter(gap * 0.5),
    children: [],
  }));
  for (let level = LEVELS; level >= 1; level -= 1) {
    row = Array.from({ length: row.length / 2 }, (_, i) => {
      const children = [row[2 * i], row[2 * i + 1]];
      const middle = (children[0].y + children[1].y) / 2;
      return { x: width * (COLUMNS[level] + jitter(0.05)), y: middle + jitter(gap * 0.9), children };
    });
  }
  const source = { x: width * COLUMNS[0], y: row[0].y + height * 0.03, children: row };
  const channels = [];
  const routes = [];
  walk(source, 0, [], channels, routes);
  return { channels, routes };
}

function walk(node, depth, route, channels, routes) {
  if (node.children.length === 0) routes.push(route);
  for (const child of node.children) {
    const reach = (child.x - node.x) * 0.5;
    const channel = { depth, points: [node.x, node.y, node.x + reach, node.y, child.x - reach, child.y, child.x, child.y] };
    channels.push(channel);
    walk(child, depth + 1, [...route, channel], channels, routes);
  }
}

/** How wide a channel is where each depth of the tree begins; one narrows into the next. */
const WIDTHS = [9.4, 6.6, 4.2, 2.6, 1.5, 0.7];
const STEPS = 20;

/** Fills the channels, wide at the source and thin at the mouths; `scale` multiplies every width. */
export function drawChannels(context, { channels }, colour, scale) {
  context.fillStyle = colour;
  context.beginPath();
  for (const channel of channels) {
    const banks = Array.from({ length: STEPS + 1 }, (_, i) => bankAt(channel, i / STEPS, scale));
    const outline = [...banks.map(([left]) => left), ...banks.map(([, right]) => right).reverse()];
    context.moveTo(...outline[0]);
    for (const point of outline.slice(1)) context.lineTo(...point);
    context.closePath();
  }
  context.fill('nonzero');
}

/** The two banks of a channel at the share `t` of its length: a half width to each side of the curve. */
function bankAt(channel, t, scale) {
  const half = (scale * (WIDTHS[channel.depth] * (1 - t) + WIDTHS[channel.depth + 1] * t)) / 2;
  const [from, to] = [along([channel], Math.max(0, t - 0.01)), along([channel], t + 0.01)];
  const length = Math.hypot(to.x - from.x, to.y - from.y) || 1;
  const [across, down] = [(-(to.y - from.y) / length) * half, ((to.x - from.x) / length) * half];
  const { x, y } = along([channel], t);
  return [
    [x + across, y + down],
    [x - across, y - down],
  ];
}

/** Where something is that has gone the share `progress` (0 to 1) of `route`. */
export function along(route, progress) {
  const position = Math.min(Math.max(progress, 0), 0.9999) * route.length;
  const p = route[Math.floor(position)].points;
  const t = position % 1;
  const s = 1 - t;
  const [a, b, c, d] = [s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t];
  return { x: a * p[0] + b * p[2] + c * p[4] + d * p[6], y: a * p[1] + b * p[3] + c * p[5] + d * p[7] };
}

/** Draws bursts that leave the source together and part at every fork: the same packet, on its way to every mouth. */
export function drawFlow(context, { routes }, colour, radius, seconds, bursts = 3) {
  context.fillStyle = colour;
  for (let burst = 0; burst < bursts; burst += 1) {
    const progress = (seconds / 6 + burst / bursts) % 1;
    routes.forEach((route, i) => {
      const { x, y } = along(route, progress + Math.sin(i * 2.4) * 0.025 * progress);
      context.beginPath();
      context.arc(x, y, radius * (1 - 0.45 * progress), 0, 2 * Math.PI);
      context.fill();
    });
  }
}
