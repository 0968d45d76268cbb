// A scene's clouds from its script. The format is that of scene_blob.py, where it is written down.

const waiting = new Map(); // script element -> what to do with its text
const kept = new Map(); // path -> promise of a scene, the last few
const MOST_KEPT = 4;

globalThis.spatialsvScene = (text) => waiting.get(document.currentScript)?.(text);

/** The decoded scene of a script's path, see `decode`. */
export function loadScene(path) {
  let found = kept.get(path);
  kept.delete(path); // the newest stands last
  if (!found) {
    found = read(path).then(inflate).then(decode);
    found.catch(() => kept.delete(path));
  }
  kept.set(path, found);
  if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value);
  return found;
}

function read(path) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    waiting.set(script, resolve);
    script.onload = script.onerror = () => {
      reject(new Error(`${path} is missing or broken: copy the whole folder of the report.`)); // after resolve: nothing
      waiting.delete(script);
      script.remove();
    };
    script.src = path;
    document.head.append(script);
  });
}

async function inflate(text) {
  const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * Bytes -> {views, cameras, clouds}. A cloud holds its present points only: `row` (place in the arrays of the scene's
 * npz), `position` (x, y, z, scene units), `colour`, `view`, `pixel`, `instance` (-1 = none), `level` (confidence in 255
 * steps, or null), `confidence(place)`, `error` (distance to the true point, NaN where there is none, or null).
 */
export function decode(bytes) {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  if (header.format !== 1) throw new Error(`The scene has format ${header.format}; write the report again.`);
  const count = header.points;
  let at = 4 + length;
  const plane = () => bytes.subarray(at, (at += count));
  const words = (size) => {
    const values = new Int32Array(count);
    for (let shift = 0; shift < 8 * size; shift += 8) {
      const one = plane();
      for (let i = 0; i < count; i++) values[i] |= one[i] << shift;
    }
    return values;
  };
  const shared = { pixel: running(words(4)), channels: [plane(), plane(), plane()].map((one) => running(one, 255)) };
  shared.instance = words(2);
  const [views, height, width] = header.shape;
  let truth = null;
  const clouds = header.clouds.map((entry) => {
    const present = plane();
    const axes = [0, 1, 2].map(() => running(unfolded(words(2)), 65535));
    const cloud = presentPoints(entry, present, axes, entry.confidence ? plane() : null, shared, height * width);
    if (!cloud.predicted) truth ||= { position: cloud.position, places: placesOf(cloud, count) };
    else if (truth) cloud.error = errors(cloud, truth);
    return cloud;
  });
  return { views, width, cameras: header.cameras, clouds };
}

function presentPoints(entry, present, axes, levels, { pixel, channels, instance }, pixelsOfView) {
  const count = present.reduce((sum, one) => sum + one, 0);
  const ints = () => new Int32Array(count);
  const cloud = {
    name: entry.name,
    predicted: entry.predicted,
    leftOut: entry.left_out,
    count,
    row: ints(),
    position: new Float32Array(3 * count),
    colour: new Uint8Array(3 * count),
    pixel: ints(),
    view: ints(),
    instance: ints(),
    level: levels && new Uint8Array(count),
    confidence: (place) => Math.exp(entry.confidence[0] + entry.confidence[1] * cloud.level[place]),
    error: null,
  };
  for (let from = 0, to = 0; to < count; from++) {
    if (!present[from]) continue;
    for (let axis = 0; axis < 3; axis++) {
      cloud.position[3 * to + axis] = entry.low[axis] + entry.step[axis] * axes[axis][from];
      cloud.colour[3 * to + axis] = channels[axis][from];
    }
    cloud.row[to] = from;
    cloud.view[to] = Math.floor(pixel[from] / pixelsOfView);
    cloud.pixel[to] = pixel[from] % pixelsOfView;
    cloud.instance[to] = instance[from] - 1;
    if (levels) cloud.level[to] = levels[from];
    to++;
  }
  return cloud;
}

function running(changes, mask = -1) {
  const sums = new Int32Array(changes.length);
  for (let i = 0, sum = 0; i < changes.length; i++) sums[i] = sum = (sum + changes[i]) & mask;
  return sums;
}

/** Signed numbers from 0, -1, 1, -2 ... counted up; in place. */
function unfolded(codes) {
  for (let i = 0; i < codes.length; i++) codes[i] = (codes[i] >> 1) ^ -(codes[i] & 1);
  return codes;
}

function placesOf(cloud, count) {
  const places = new Int32Array(count).fill(-1);
  for (let place = 0; place < cloud.count; place++) places[cloud.row[place]] = place;
  return places;
}

function errors({ count, row, position: own }, { position: target, places }) {
  const found = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const [a, b] = [3 * i, 3 * places[row[i]]];
    found[i] = b < 0 ? NaN : Math.hypot(own[a] - target[b], own[a + 1] - target[b + 1], own[a + 2] - target[b + 2]);
  }
  return found;
}
