// The controls above the picture, the filters of the list, and the keys.

import { check, choice, element, slider } from "./dom.js";

export const KEYS =
  "On the picture: drag or arrow keys turn, right drag or Shift + arrows move, wheel or + and - zoom, 1 to 9 stand at that " +
  "view's camera, 0 goes back, n and p next and previous scene, Enter takes the point in the middle.";

/** What is shown and how. */
export function buildControls(viewer) {
  const setting = (name) => (value) => {
    viewer.stage.settings[name] = value;
    viewer.stage.draw();
  };
  const boxes = viewer.names.map((name) =>
    check(name, viewer.shown.has(name), (on) => {
      viewer.shown[on ? "add" : "delete"](name);
      viewer.arrange();
    }),
  );
  const colours = ["picture", "error", "confidence", "view", "instance"].map((one) => [one, one]);
  return element(
    "div",
    { className: "controls" },
    element("span", {}, ...boxes),
    choice("panels", [["", "side by side"], ["yes", "over each other"]], (value) => {
      viewer.together = value === "yes";
      viewer.arrange();
    }),
    choice("colour by", colours, (value) => {
      viewer.mode = value;
      viewer.paint();
    }),
    slider("hide the least confident", "confidence", [0, 99, 1, 0], " %", (value) => setting("hidden")(value / 100)),
    slider("point size", "size", [0.5, 4, 0.25, 1.5], "", setting("scale")),
    check("cameras", true, setting("cameras")),
    check("hide walls from behind", true, setting("culled")),
    element("button", { type: "button", onclick: () => viewer.stage.reset() }, "reset view"),
  );
}

/** Which scenes are listed, in which order. */
export function buildFilters(viewer) {
  const set = (name) => (value) => {
    viewer.filter[name] = value;
    viewer.list();
  };
  const shares = [["1", "all"], ["0.5", "worst half"], ["0.25", "worst quarter"]];
  const orders = [["given", "as chosen"], ["error", "worst depth first"], ["wrong", "most wrong first"]];
  return element(
    "div",
    { className: "filters" },
    check("with wrong answers", false, set("wrong")),
    choice("depth error", shares, (value) => set("share")(Number(value))),
    choice("order", orders, set("order")),
  );
}

/** A key pressed on the picture. */
export function press(viewer, event) {
  const turn = Math.PI / 36;
  const moves = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const { key } = event;
  const { stage } = viewer;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (moves[key]) {
    const [x, y] = moves[key];
    if (event.shiftKey) stage.controls.pan(30 * x, 30 * y);
    else stage.rotate(x * turn, y * turn);
  } else if (key === "+" || key === "=") stage.controls.dollyIn(1.15);
  else if (key === "-") stage.controls.dollyOut(1.15);
  else if (key === "0") stage.reset();
  else if (/^[1-9]$/.test(key)) {
    if (!stage.standAt(Number(key) - 1)) viewer.say(`View ${key} has no camera.`);
  } else if (key === "n" || key === "p") {
    const place = viewer.left.indexOf(viewer.scene) + (key === "n" ? 1 : -1);
    if (viewer.left[place]) viewer.select(viewer.left[place]);
  } else if (key === "Enter") {
    const [left, top, wide, high] = stage.place(0);
    viewer.describe(stage.pick(left + wide / 2, top + high / 2));
  } else return;
  event.preventDefault();
}
