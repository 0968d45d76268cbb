// What the colours mean, and what is known of one point.

import { ofPalette, ofStops } from "./clouds.js";
import { element } from "./dom.js";

function chip(colour) {
  const made = element("i", { className: "chip" });
  made.style.background = `rgb(${colour})`;
  return made;
}

function bar(stops, low, high) {
  const gradient = Array.from({ length: 9 }, (_, i) => `rgb(${ofStops(stops, i / 8)})`).join(", ");
  const strip = element("i", { className: "strip" });
  strip.style.background = `linear-gradient(to right, ${gradient})`;
  return [low, strip, high];
}

const chips = (texts) => texts.map((text, place) => element("span", {}, chip(ofPalette(place)), text));

/** The parts of the legend of the viewer's mode. */
export function legend({ mode, maps, most, loaded }, objects) {
  const views = Math.max(...loaded.map((scene) => scene?.views || 0));
  const far = `${most.toFixed(3)} scene units from the true point and more; grey: no truth`;
  return {
    picture: () => [],
    error: () => bar(maps.magma, "0", far),
    confidence: () => bar(maps.viridis, "least confident", "most; grey: none given"),
    view: () => chips(Array.from({ length: views }, (_, view) => `view ${view + 1}`)),
    instance: () => (objects.length ? chips(objects) : ["The data names no objects."]),
  }[mode]();
}

/** A point in words. metres: metres per scene unit or 0; width: of the maps; objects: their names. */
export function pointFacts({ cloud, label }, place, metres, width, objects) {
  const xyz = Array.from(cloud.position.subarray(3 * place, 3 * place + 3));
  const rgb = Array.from(cloud.colour.subarray(3 * place, 3 * place + 3));
  const pixel = cloud.pixel[place];
  const inMetres = metres ? ` (${xyz.map((value) => (value * metres).toFixed(3)).join(", ")} m)` : "";
  const parts = [
    `${label}, view ${cloud.view[place] + 1}, column ${pixel % width}, row ${Math.floor(pixel / width)}`,
    `at ${xyz.map((value) => value.toFixed(4)).join(", ")} scene units${inMetres}`,
    `colour ${rgb.join(", ")}`,
  ];
  if (cloud.level) parts.push(`confidence ${cloud.confidence(place).toFixed(3)}`);
  if (cloud.error && cloud.error[place] >= 0) parts.push(`error ${cloud.error[place].toFixed(4)}`);
  if (cloud.instance[place] >= 0) parts.push(objects[cloud.instance[place]]);
  const data = { row: cloud.row[place], cloud: cloud.name, position: xyz.join(" "), colour: rgb.join(" ") };
  return { nodes: [chip(rgb), parts.join("; ")], data };
}
