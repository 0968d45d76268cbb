// What colour a point has, and which points are hidden.

export const GREY = [120, 124, 132];
const PALETTE = [
  [66, 133, 244], [234, 134, 42], [52, 168, 103], [216, 74, 124], [160, 108, 222], [190, 176, 44], [64, 190, 200],
  [200, 92, 60], [124, 180, 60], [150, 120, 96], [240, 150, 180], [110, 140, 180],
];

/** The colour of view or object number `place`. */
export const ofPalette = (place) => PALETTE[place % PALETTE.length];

/** The colour at `share` (0 to 1) of a colour map given by equally spaced stops. */
export function ofStops(stops, share) {
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const from = Math.min(Math.floor(place), stops.length - 2);
  return stops[from].map((value, channel) => Math.round(value + (place - from) * (stops[from + 1][channel] - value)));
}

/** The value below which `share` of the finite numbers lie (of at most 20,000 of them), 0 without any. */
export function quantile(lists, share) {
  const total = lists.reduce((sum, list) => sum + list.length, 0);
  const stride = Math.max(1, Math.floor(total / 20000));
  const values = [];
  for (const list of lists) for (let i = 0; i < list.length; i += stride) if (Number.isFinite(list[i])) values.push(list[i]);
  values.sort((a, b) => a - b);
  return values.length ? values[Math.min(values.length - 1, Math.floor(share * values.length))] : 0;
}

/** float[N]: the share of the cloud's points that are less confident; 1 everywhere without confidence. */
export function ranks(cloud) {
  if (!cloud.level) return new Float32Array(cloud.count).fill(1);
  const below = new Float64Array(257);
  for (const level of cloud.level) below[level + 1]++;
  for (let i = 1; i < 257; i++) below[i] += below[i - 1];
  return Float32Array.from(cloud.level, (level) => below[level] / cloud.count);
}

/**
 * uint8[3N]: the colours of a cloud.
 * mode: "picture", "error", "confidence", "view" or "instance"; maps: colour maps of the page; most: error of the last colour;
 * marked: Set of objects that stand out, or null.
 */
export function paint(cloud, mode, maps, most, rank, marked) {
  const colours = new Uint8Array(3 * cloud.count);
  const table = Array.from({ length: 256 }, (_, i) => ofStops(mode === "error" ? maps.magma : maps.viridis, i / 255));
  const mapped = (share) => table[Math.round(255 * Math.min(share, 1))];
  for (let i = 0; i < cloud.count; i++) {
    let colour = GREY;
    if (mode === "picture") colour = cloud.colour.subarray(3 * i, 3 * i + 3);
    else if (mode === "view") colour = ofPalette(cloud.view[i]);
    else if (mode === "instance") colour = cloud.instance[i] < 0 ? GREY : ofPalette(cloud.instance[i]);
    else if (mode === "error" && cloud.error && cloud.error[i] >= 0) colour = mapped(cloud.error[i] / most);
    else if (mode === "confidence" && cloud.level) colour = mapped(rank[i]);
    const faded = marked && !marked.has(cloud.instance[i]);
    for (let channel = 0; channel < 3; channel++) {
      colours[3 * i + channel] = faded ? 40 + colour[channel] * 0.18 : colour[channel];
    }
  }
  return colours;
}
