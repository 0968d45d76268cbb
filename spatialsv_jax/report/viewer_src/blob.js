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
    const planes = Array.from({ length: size }, plane);
    const values = new Int32Array(count);
    planes.forEach((one, place) => {
      for (let i = 0; i < count; i++) values[i] |= one[i] << (8 * place);
    });
    return values;
  };
  const pixel = running(words(4));
  const channels = [plane(), plane(), plane()].map((one) => running(one, 255));
  const instance = words(2);
  const [views, height, width] = header.shape;
  let truth = null;
  const clouds = header.clouds.map((entry) => {
    const present = plane();
    const axes = [0, 1, 2].map(() => running(words(2).map((code) => (code >> 1) ^ -(code & 1)), 65535));
    const level = entry.confidence ? plane() : null;
    const row = Int32Array.from({ length: count }, (_, i) => i).filter((i) => present[i]);
    const position = new Float32Array(3 * row.length);
    const colour = new Uint8Array(3 * row.length);
    row.forEach((from, to) => {
      for (let axis = 0; axis < 3; axis++) {
        position[3 * to + axis] = entry.low[axis] + entry.step[axis] * axes[axis][from];
        colour[3 * to + axis] = channels[axis][from];
      }
    });
    const cloud = {
      name: entry.name,
      predicted: entry.predicted,
      leftOut: entry.left_out,
      count: row.length,
      row,
      position,
      colour,
      pixel: row.map((i) => pixel[i] % (height * width)),
      view: row.map((i) => Math.floor(pixel[i] / (height * width))),
      instance: row.map((i) => instance[i] - 1),
      level: level && Uint8Array.from(row, (i) => level[i]),
      confidence: (place) => Math.exp(entry.confidence[0] + entry.confidence[1] * cloud.level[place]),
      error: null,
    };
    if (!cloud.predicted) truth = truth || { present, cloud, places: placesOf(cloud, count) };
    else if (truth) cloud.error = errors(cloud, truth);
    return cloud;
  });
  return { views, width, cameras: header.cameras, clouds };
}

function running(changes, mask = -1) {
  const sums = new Int32Array(changes.length);
  for (let i = 0, sum = 0; i < changes.length; i++) sums[i] = sum = (sum + changes[i]) & mask;
  return sums;
}

function placesOf(cloud, count) {
  const places = new Int32Array(count).fill(-1);
  cloud.row.forEach((row, place) => (places[row] = place));
  return places;
}

function errors(cloud, truth) {
  const target = truth.cloud.position;
  return Float32Array.from(cloud.row, (row, place) => {
    const other = truth.places[row];
    if (other < 0) return NaN;
    const gap = [0, 1, 2].map((axis) => cloud.position[3 * place + axis] - target[3 * other + axis]);
    return Math.hypot(...gap);
  });
}
