// The viewer's page: scenes are chosen, loaded, arranged in panels and coloured. What it reads: viewer_data.py.

import { loadScene } from "./blob.js";
import { paint, quantile, ranks } from "./clouds.js";
import { buildControls, buildFilters, KEYS, press } from "./controls.js";
import { element } from "./dom.js";
import { legend, pointFacts } from "./legend.js";
import { Questions } from "./questions.js";
import { filterScenes, mergeScenes } from "./scenes.js";
import { Stage } from "./stage.js";
import styles from "./viewer.css";

const HINT = "Click a point for its place, colour and error.";

class Viewer {
  constructor(section, data) {
    this.section = section;
    this.runs = data.runs;
    this.maps = data.colours;
    this.scenes = mergeScenes(data.runs);
    this.filter = { wrong: false, share: 1, order: "given" };
    this.mode = "picture";
    this.together = false; // all clouds in one panel
    this.names = [...new Set(data.runs.flatMap((run) => run.scenes.flatMap((scene) => scene.clouds.map((one) => one.name))))];
    this.shown = new Set(this.names.slice(0, 2));
    this.build();
    try {
      this.stage = new Stage(this.canvas, (found) => this.describe(found));
    } catch {
      this.fail("This browser shows no WebGL, which the point clouds need. The pictures further down show the same scenes.");
      return;
    }
    this.stage.drawn = () => this.afterDrawing();
    this.list();
    this.select(this.scenes[0]);
  }

  build() {
    this.canvas = element("canvas", { tabIndex: 0, onkeydown: (event) => press(this, event) });
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `Point clouds. ${KEYS}`);
    this.labels = element("div", { className: "labels" });
    this.point = element("p", { className: "point" }, HINT);
    this.point.setAttribute("aria-live", "polite");
    this.status = element("p", { className: "status" });
    this.status.setAttribute("aria-live", "polite");
    this.key = element("div", { className: "key" });
    this.count = element("p", { className: "status" });
    this.sceneList = element("div", { className: "list" });
    this.questions = new Questions(this);
    const stage = element("div", { className: "stage" }, this.canvas, this.labels);
    const middle = element("div", {}, buildControls(this), stage, this.key, this.point, this.status);
    const left = element("div", { className: "side scenes" }, buildFilters(this), this.count, this.sceneList);
    const columns = element("div", { className: "columns" }, left, middle, this.questions.element);
    const help = element("details", {}, element("summary", {}, "Keys"), element("p", {}, KEYS));
    this.section.append(element("style", {}, styles), columns, help);
  }

  say(text) {
    this.status.textContent = text;
  }

  fail(text) {
    this.section.dataset.state = "failed";
    this.say(text);
  }

  /** The list of scenes as the filter leaves it. */
  list() {
    this.left = filterScenes(this.scenes, this.filter);
    this.count.textContent = `${this.left.length} of ${this.scenes.length} scenes`;
    this.buttons = new Map(
      this.left.map((scene) => {
        const error = scene.error === null ? "no depth error" : `AbsRel ${scene.error.toFixed(3)}`;
        const facts = element("small", {}, `${error}, ${scene.wrong} of ${scene.questions.length} wrong`);
        return [scene, element("button", { type: "button", onclick: () => this.select(scene) }, scene.id, facts)];
      }),
    );
    this.sceneList.replaceChildren(...this.buttons.values());
    this.markCurrent();
  }

  /** Shows in the list which scene is chosen; the buttons stay, and with them the focus. */
  markCurrent() {
    for (const [scene, button] of this.buttons) {
      button.setAttribute("aria-current", scene === this.scene);
      if (scene !== this.scene) continue;
      const { scrollTop, clientHeight } = this.sceneList;
      const top = button.offsetTop - this.sceneList.offsetTop;
      if (top < scrollTop || top + button.offsetHeight > scrollTop + clientHeight) this.sceneList.scrollTop = top;
    }
  }

  async select(scene) {
    const began = performance.now();
    this.scene = scene;
    this.section.dataset.state = "loading";
    this.say(`Loading ${scene.id}`);
    this.markCurrent();
    this.questions.show();
    try {
      const loaded = await Promise.all(scene.of.map((one) => one && loadScene(one.script)));
      if (this.scene !== scene) return; // another one was chosen meanwhile
      this.loaded = loaded;
    } catch (error) {
      if (this.scene === scene) this.fail(error.message);
      return;
    }
    this.began = began;
    this.arrange(true);
  }

  /** The chosen clouds in their panels: the truth once, then each run's. `anew`: the camera goes to the start. */
  arrange(anew = false) {
    if (!this.loaded) return;
    const entries = [];
    let truth = false;
    this.loaded.forEach((scene, run) => {
      for (const cloud of scene?.clouds || []) {
        if (!this.shown.has(cloud.name) || (!cloud.predicted && truth)) continue;
        truth ||= !cloud.predicted;
        const label = cloud.predicted && this.runs.length > 1 ? `${this.runs[run].name}: ${cloud.name}` : cloud.name;
        entries.push({ label, cloud, rank: (cloud.rank ??= ranks(cloud)), cameras: scene.cameras, run });
      }
    });
    entries.sort((a, b) => a.cloud.predicted - b.cloud.predicted); // stable: the truth first
    const { start } = this.loaded.find(Boolean).cameras;
    const panelOf = (label, clouds, cameras) => ({ label, clouds, cameras, pointSize: start.point_size });
    this.panels = this.together
      ? [panelOf(entries.map((one) => one.label).join(", "), entries, joinCameras(entries))]
      : entries.map((one) => panelOf(one.label, [one], one.cloud.predicted ? one.cameras : { true: one.cameras.true }));
    this.most = quantile(entries.map((one) => one.cloud.error || []), 0.95) || 1;
    this.stage.show(this.panels, anew ? start : null);
    this.paint();
    this.describe(null);
    const sum = (value) => entries.reduce((total, { cloud }) => total + value(cloud), 0);
    const lost = sum((cloud) => cloud.leftOut);
    const missing = this.runs.filter((_, run) => !this.scene.of[run]).map((run) => run.name);
    const parts = [`${this.scene.id}: ${sum((cloud) => cloud.count)} points`];
    if (lost) parts.push(`${lost} far outside left out`);
    if (missing.length) parts.push(`not in the report of ${missing.join(", ")}`);
    this.say(parts.join("; "));
  }

  /** Colours of the points by the mode and the chosen question. */
  paint() {
    if (!this.panels) return;
    const question = this.questions.chosen;
    const marked = question?.objects?.length ? new Set(question.objects) : null;
    this.panels.forEach((panel, number) =>
      panel.clouds.forEach(({ cloud, rank }, place) => {
        this.stage.colour(number, place, paint(cloud, this.mode, this.maps, this.most, rank, marked));
      }),
    );
    this.stage.mark(question?.views ? new Set(question.views) : null, this.mode === "view");
    this.key.replaceChildren(...legend(this, this.objects()));
  }

  /** Names of the scene's objects. */
  objects() {
    return this.scene.of.find((one) => one?.objects.length)?.objects || [];
  }

  /** What is known of a point; found: as `Stage.pick` gives it, or null. */
  describe(found) {
    for (const name of Object.keys(this.point.dataset)) delete this.point.dataset[name];
    this.point.replaceChildren(HINT);
    if (!found) return;
    const [panel, number, place] = found;
    const metres = this.scene.of.find(Boolean).metres_per_unit;
    const { width } = this.loaded.find(Boolean);
    const { nodes, data } = pointFacts(this.panels[panel].clouds[number], place, metres, width, this.objects());
    this.point.replaceChildren(...nodes);
    Object.assign(this.point.dataset, data);
  }

  afterDrawing() {
    if (!this.panels) return;
    this.labels.replaceChildren(
      ...this.panels.map((panel, number) => {
        const [left, top, wide] = this.stage.place(number);
        const label = element("span", {}, panel.label);
        Object.assign(label.style, { left: `${left + 8}px`, top: `${top + 6}px`, maxWidth: `${wide - 16}px` });
        return label;
      }),
    );
    if (!this.began) return;
    Object.assign(this.section.dataset, { scene: this.scene.id, milliseconds: Math.round(performance.now() - this.began) });
    this.began = null;
    this.section.dataset.state = "ready";
  }
}

/** The true cameras once and those of every run. */
function joinCameras(entries) {
  const runs = entries.filter((one, place) => entries.findIndex((other) => other.run === one.run) === place);
  return { true: runs[0]?.cameras.true, predicted: runs.flatMap((one) => one.cameras.predicted || []) };
}

const data = JSON.parse(document.getElementById("viewer-data").textContent);
globalThis.spatialsvViewer = new Viewer(document.getElementById("viewer"), data); // by name for the console and the tests
