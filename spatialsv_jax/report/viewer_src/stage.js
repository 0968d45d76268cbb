// The canvas: panels that share one camera. Scenes are in OpenCV axes (y down); a turned group shows them upright.

import {
  BufferAttribute, BufferGeometry, Color, ColorManagement, Group, LinearSRGBColorSpace, LineBasicMaterial, LineSegments,
  Matrix4, PerspectiveCamera, Points, Scene, ShaderMaterial, Vector3, WebGLRenderer,
} from "three";
import { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";
import { ofPalette } from "./clouds.js";

const MOST_VIEWS = 64; // cameras that the shader knows; points of further views are drawn from behind too
const BACKDROP = 0x12151b; // as images.BACKDROP
const FRUSTUM = 0.12; // its length in scene units, as in the GLB files
const KINDS = { true: [60, 170, 110], predicted: [235, 110, 40] }; // as pointcloud_files.CAMERA_COLOURS
const UNKNOWN = 1e9; // centre of a camera that is not known: its points are drawn from behind too
const NEAR_PX = 8; // how far from a click a point may lie

ColorManagement.enabled = false; // the colours of the pictures reach the screen as they are

const VERTEX = `
  attribute vec3 colour; attribute float view; attribute float rank;
  uniform vec3 centres[${MOST_VIEWS}]; uniform vec3 eye; uniform float hidden, size, focal; uniform bool culled;
  varying vec3 shade;
  void main() {
    shade = colour;
    vec4 place = modelViewMatrix * vec4(position, 1.0);
    gl_Position = projectionMatrix * place;
    gl_PointSize = clamp(size * focal / -place.z, 1.0, 40.0);
    int v = int(view);
    bool behind = culled && v < ${MOST_VIEWS} && centres[v].x < ${UNKNOWN / 2}.0 && dot(eye - position, centres[v] - position) < 0.0;
    if (rank < hidden || behind) gl_Position = vec4(0.0, 0.0, 2.0, 1.0); // beyond the far plane
  }`;
const FRAGMENT = "varying vec3 shade; void main() { gl_FragColor = vec4(shade, 1.0); }";

export class Stage {
  /** Throws where the browser has no WebGL. `picked` is called with what a click finds, see `pick`. */
  constructor(canvas, picked) {
    this.canvas = canvas;
    this.renderer = new WebGLRenderer({ canvas, antialias: false });
    this.renderer.autoClear = false;
    this.renderer.outputColorSpace = LinearSRGBColorSpace;
    this.camera = new PerspectiveCamera(52, 1, 0.01, 100);
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.enableDamping = false;
    this.controls.addEventListener("change", () => this.draw());
    this.panels = [];
    this.settings = { hidden: 0, scale: 1.5, culled: true, cameras: true };
    this.drawn = () => {};
    let from = null;
    canvas.addEventListener("pointerdown", (event) => (from = [event.clientX, event.clientY]));
    canvas.addEventListener("pointerup", (event) => {
      if (!from || Math.hypot(event.clientX - from[0], event.clientY - from[1]) > 4) return; // it was a drag
      const box = canvas.getBoundingClientRect();
      picked(this.pick(event.clientX - box.left, event.clientY - box.top));
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /**
   * Shows a scene anew. panels: [{label, clouds: [{cloud, rank}], cameras: {true: [...], predicted: [...]}}];
   * start: `cameras.start` of the blob, or null to leave the camera where it is.
   */
  show(panels, start) {
    for (const panel of this.panels) release(panel.scene);
    this.panels = panels.map((panel) => ({ ...panel, ...build(panel) }));
    this.pointSize = panels[0]?.pointSize || 0.01;
    if (start) this.reset(start);
    this.draw();
  }

  /** Back to where the scene is looked at from first. */
  reset(start = this.start) {
    this.start = start;
    const [eye, target] = [upright(start.eye), upright(start.target)];
    const [, , wide, high] = this.place(0);
    eye.sub(target).multiplyScalar(Math.max(1, high / (wide || 1))).add(target); // farther back in an upright panel
    const reach = eye.distanceTo(target);
    this.camera.near = reach / 200;
    this.camera.far = reach * 50;
    this.camera.position.copy(eye);
    this.controls.target.copy(target);
    this.controls.update();
    this.draw();
  }

  /** Stands where a camera of the first panel stands, and looks as it does. */
  standAt(view) {
    const panel = this.panels[0];
    const found = [...(panel?.cameras.predicted || []), ...(panel?.cameras.true || [])].reverse().find((one) => one.view === view);
    if (!found) return false;
    const centre = upright(found.centre);
    const middle = found.corners.reduce((sum, corner) => sum.add(upright(corner).divideScalar(4)), new Vector3());
    this.camera.position.copy(centre);
    this.controls.target.copy(centre.clone().lerp(middle, 0.8));
    this.controls.update();
    this.draw();
    return true;
  }

  /** New colours, uint8[3N], of one cloud of one panel. */
  colour(panel, number, colours) {
    const { colour } = this.panels[panel].points[number].geometry.attributes;
    colour.array.set(colours);
    colour.needsUpdate = true;
    this.draw();
  }

  /** Marks the cameras of these views (Set or null); `byView` gives each view its colour. */
  mark(views, byView) {
    for (const panel of this.panels) {
      for (const { kind, view, lines } of panel.frusta) {
        const colour = views?.has(view) ? [255, 226, 92] : byView ? ofPalette(view) : KINDS[kind];
        lines.material.color.setRGB(...colour.map((value) => value / 255));
        lines.material.opacity = views && !views.has(view) ? 0.25 : 1;
      }
    }
    this.draw();
  }

  /** Draws at the next frame; any number of calls before it are one. */
  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.render();
      this.drawn();
    });
  }

  render() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    this.renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
    this.renderer.setSize(width, height, false);
    this.renderer.setScissorTest(true);
    const eye = upright(this.camera.position.toArray()).toArray(); // the turn is its own inverse
    this.panels.forEach((panel, number) => {
      const [left, top, wide, high] = this.place(number);
      this.camera.aspect = wide / high;
      this.camera.updateProjectionMatrix();
      for (const points of panel.points) {
        const uniforms = points.material.uniforms;
        uniforms.eye.value.fromArray(eye);
        uniforms.hidden.value = this.settings.hidden;
        uniforms.culled.value = this.settings.culled;
        uniforms.size.value = this.pointSize * this.settings.scale;
        uniforms.focal.value = (this.renderer.getPixelRatio() * high) / (2 * Math.tan((this.camera.fov * Math.PI) / 360));
      }
      for (const { lines } of panel.frusta) lines.visible = this.settings.cameras;
      this.renderer.setViewport(left, height - top - high, wide, high);
      this.renderer.setScissor(left, height - top - high, wide, high);
      this.renderer.setClearColor(BACKDROP, 1);
      this.renderer.clear();
      this.renderer.render(panel.scene, this.camera);
    });
  }

  /** [left, top, width, height] of a panel in the canvas: beside each other, or below where that is narrow. */
  place(number) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const count = Math.max(1, this.panels.length);
    const columns = Math.min(count, Math.max(1, Math.round(Math.sqrt((count * width) / height))));
    const rows = Math.ceil(count / columns);
    const [wide, high] = [Math.floor(width / columns), Math.floor(height / rows)];
    return [(number % columns) * wide, Math.floor(number / columns) * high, wide, high];
  }

  /** The nearest visible point within a few pixels of a place in the canvas: [panel number, number of the cloud, place], or null. */
  pick(x, y) {
    const number = this.panels.findIndex((_, one) => {
      const [left, top, wide, high] = this.place(one);
      return x >= left && x < left + wide && y >= top && y < top + high;
    });
    if (number < 0) return null;
    const [left, top, wide, high] = this.place(number);
    this.camera.aspect = wide / high;
    this.camera.updateProjectionMatrix();
    this.camera.updateMatrixWorld();
    let best = null;
    let least = Infinity;
    this.panels[number].points.forEach((points, cloud) => {
      const matrix = new Matrix4().multiplyMatrices(this.camera.projectionMatrix, this.camera.matrixWorldInverse);
      const m = matrix.multiply(points.matrixWorld).elements;
      const { array: at } = points.geometry.attributes.position;
      for (let i = 0; i < at.length / 3; i++) {
        const [px, py, pz] = [at[3 * i], at[3 * i + 1], at[3 * i + 2]];
        const w = m[3] * px + m[7] * py + m[11] * pz + m[15];
        if (w <= this.camera.near || !this.visible(points, i, px, py, pz)) continue;
        const dx = left + ((m[0] * px + m[4] * py + m[8] * pz + m[12]) / w + 1) * 0.5 * wide - x;
        const dy = top + (1 - (m[1] * px + m[5] * py + m[9] * pz + m[13]) / w) * 0.5 * high - y;
        // As drawn: the point in front whose square covers the place; else the closest on the screen.
        const half = Math.max(0.5, (0.5 * points.material.uniforms.size.value * points.material.uniforms.focal.value) / w);
        const off = Math.max(Math.abs(dx), Math.abs(dy));
        const cost = off <= half ? w : off <= NEAR_PX ? 1e6 + off : Infinity;
        if (cost < least) [least, best] = [cost, [number, cloud, i]];
      }
    });
    return best;
  }

  visible(points, i, x, y, z) {
    const { rank, view } = points.geometry.attributes;
    const { eye, centres, culled } = points.material.uniforms;
    if (rank.array[i] < this.settings.hidden) return false;
    const [e, c] = [eye.value, centres.value[view.array[i]]];
    if (!culled.value || !c || c.x > UNKNOWN / 2) return true;
    return (e.x - x) * (c.x - x) + (e.y - y) * (c.y - y) + (e.z - z) * (c.z - z) >= 0;
  }

  rotate(left, up) {
    this.controls.rotateLeft(left);
    this.controls.rotateUp(up);
  }
}

const upright = ([x, y, z]) => new Vector3(x, -y, -z);

function build({ clouds, cameras }) {
  const scene = new Scene();
  const group = new Group();
  group.scale.set(1, -1, -1);
  scene.add(group);
  const points = clouds.map(({ cloud, rank }) => {
    const geometry = new BufferGeometry();
    geometry.setAttribute("position", new BufferAttribute(cloud.position, 3));
    geometry.setAttribute("colour", new BufferAttribute(cloud.colour.slice(), 3, true));
    geometry.setAttribute("view", new BufferAttribute(Uint16Array.from(cloud.view), 1));
    geometry.setAttribute("rank", new BufferAttribute(rank, 1));
    const own = cameras[cloud.predicted ? "predicted" : "true"] || [];
    const centres = Array.from({ length: MOST_VIEWS }, () => new Vector3(UNKNOWN, 0, 0));
    for (const { view, centre } of own) if (view < MOST_VIEWS) centres[view].fromArray(centre);
    const uniforms = {
      centres: { value: centres }, eye: { value: new Vector3() }, hidden: { value: 0 }, size: { value: 0 }, focal: { value: 1 },
      culled: { value: false },
    };
    const material = new ShaderMaterial({ vertexShader: VERTEX, fragmentShader: FRAGMENT, uniforms });
    const made = new Points(geometry, material);
    made.frustumCulled = false;
    group.add(made);
    return made;
  });
  const frusta = [];
  for (const [kind, list] of Object.entries(KINDS).map(([name]) => [name, cameras[name] || []])) {
    for (const { view, centre, corners } of list) {
      const ends = corners.map((corner) => corner.map((value, axis) => centre[axis] + FRUSTUM * (value - centre[axis])));
      const segments = ends.flatMap((end, i) => [centre, end, end, ends[(i + 1) % 4]]);
      const geometry = new BufferGeometry();
      geometry.setAttribute("position", new BufferAttribute(Float32Array.from(segments.flat()), 3));
      const material = new LineBasicMaterial({ color: new Color(), transparent: true });
      const lines = new LineSegments(geometry, material);
      lines.frustumCulled = false;
      group.add(lines);
      frusta.push({ kind, view, lines });
    }
  }
  scene.updateMatrixWorld(true);
  return { scene, points, frusta };
}

function release(scene) {
  scene.traverse((one) => {
    one.geometry?.dispose();
    one.material?.dispose();
  });
}
