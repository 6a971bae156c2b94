// The picture: a camera round the cloud, drawn when something changes. While the view moves, as many points are drawn
// as the machine manages thirty times a second; when it rests, the others are added to the picture step by step.

import {
  ColorManagement, Group, PerspectiveCamera, Quaternion, Scene, Vector3, WebGLRenderer,
} from "../vendor/three/three.module.min.js";
import { OrbitControls } from "../vendor/three/OrbitControls.js";
import { Pace } from "./pace.js";
import { PointSet } from "./points.js";
import { ShadedTarget } from "./shade.js";
import { extent, firstView, fitDistance } from "./view.js";

const UP = new Vector3(0, 1, 0);
const FLIGHT_MS = 280;
ColorManagement.enabled = false;

/** Return whether this browser draws in 3-D. */
export function canDraw() {
  return document.createElement("canvas").getContext("webgl2") !== null;
}

/**
 * The 3-D view of a canvas.
 *
 * `onFrame({resting, budget, count, fps})` is called after each frame; resting:
 * nothing is left to draw.
 */
export class View {
  constructor(canvas, { onFrame }) {
    this._canvas = canvas;
    this._onFrame = onFrame;
    this._renderer = new WebGLRenderer({ canvas, alpha: true, antialias: true, powerPreference: "high-performance" });
    this._renderer.autoClear = false;
    this._target = new ShadedTarget();
    this._camera = new PerspectiveCamera(38, 1, 0.01, 100);
    this._controls = new OrbitControls(this._camera, canvas);
    this._controls.enableDamping = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    this._controls.dampingFactor = 0.14;
    this._controls.zoomToCursor = true;
    this._controls.addEventListener("change", () => this.redraw());
    this._controls.addEventListener("start", () => (this._atHome = false));
    // The cloud's own up stands upright in the world, where the controls turn round the vertical.
    this._world = new Group();
    this._lines = new Group();
    this._world.add(this._lines);
    this._cloudScene = new Scene();
    this._lineScene = new Scene();
    this._pace = new Pace();
    this._pointSize = 1;
    this._points = this._boxes = null;
    this._boxesShown = true;
    new ResizeObserver(() => this._resize()).observe(canvas);
    this._resize();
  }

  /** Show a cloud (see cloud.js). */
  setCloud(cloud) {
    this.clear();
    this._cloud = cloud;
    this._extent = extent(cloud);
    this._points = new PointSet(cloud, this._extent);
    this._turned = new Group();
    this._turned.add(this._points.object);
    this._cloudScene.add(this._turned);
    this._lineScene.add(this._world);
    this.orient(null);
  }

  /** Turn the cloud so that this direction of the file (or a guess) is up; returns the heights' [low, high]. */
  orient(known) {
    const { up, backward } = firstView(this._cloud, this._extent, known && new Vector3(...known).normalize());
    const turn = new Quaternion().setFromUnitVectors(up, UP);
    this._turned.quaternion.copy(turn);
    this._world.quaternion.copy(turn);
    this._turned.updateMatrixWorld();
    this._world.updateMatrixWorld();
    this._home = { backward: backward.clone().applyQuaternion(turn) };
    this._turn = turn;
    this.heights = this._points.setUp(up);
    this.home(false);
  }

  /** Go to where the whole cloud is in view. */
  home(fly = true) {
    if (!this._points) return;
    const { backward } = this._home;
    const target = this._extent.target.clone().applyQuaternion(this._turn);
    const points = this._extent.sample.map((point) => point.clone().applyQuaternion(this._turn));
    const right = new Vector3().crossVectors(UP, backward).normalize();
    const up = new Vector3().crossVectors(backward, right);
    const tangent = Math.tan((this._camera.fov * Math.PI) / 360);
    const { aspect } = this._camera;
    const distance = fitDistance(points, target, right, up, backward, 0.89 * tangent * aspect, 0.85 * tangent);
    this._controls.maxDistance = 40 * this._extent.radius;
    this._go(target, target.clone().addScaledVector(backward, distance), fly);
    this._atHome = true;
  }

  /** Show these boxes (a BoxSet), or none. */
  setBoxes(boxes) {
    this._boxes?.dispose();
    this._lines.clear();
    this._boxes = boxes;
    if (boxes) {
      this._lines.add(boxes.object);
      const { width, height, ratio } = this._size(1);
      boxes.resize(width, height, ratio);
    }
    this.redraw();
  }

  showBoxes(shown) {
    this._boxesShown = this._lines.visible = shown;
    this.redraw();
  }

  /** Dim all but one object (-1: none) and go to its box. */
  select(id, fly = true) {
    if (!this._points) return;
    this._points.material.uniforms.selected.value = id + 1;
    this._boxes?.select(id);
    const box = id < 0 ? null : this._boxes?.find(id);
    if (box && fly) {
      const target = box.center.clone().applyQuaternion(this._turn);
      const backward = this._camera.position.clone().sub(this._controls.target).normalize();
      this._go(target, target.clone().addScaledVector(backward, box.radius * 5.5), true);
    }
    this.redraw();
  }

  colorBy(mode) {
    this._points?.colorBy(mode);
    this.redraw();
  }

  paintClasses(colors, hidden) {
    this._points?.paintClasses(colors, hidden);
    this.redraw();
  }

  pointSize(factor) {
    this._pointSize = factor;
    this.redraw();
  }

  /** Turn round the cloud by angles, in radians. */
  turn(sideways, upwards) {
    this._atHome = false;
    const offset = this._camera.position.clone().sub(this._controls.target);
    const length = offset.length();
    const polar = Math.min(Math.PI - 0.05, Math.max(0.05, Math.acos(offset.y / length) - upwards));
    const azimuth = Math.atan2(offset.x, offset.z) + sideways;
    offset.set(Math.sin(polar) * Math.sin(azimuth), Math.cos(polar), Math.sin(polar) * Math.cos(azimuth));
    this._camera.position.copy(this._controls.target).addScaledVector(offset, length);
    this.redraw();
  }

  /** Shift the picture by shares of its height. */
  shift(right, up) {
    this._atHome = false;
    const height = 2 * Math.tan((this._camera.fov * Math.PI) / 360) * this._distance();
    const move = new Vector3(right * height, up * height, 0).applyQuaternion(this._camera.quaternion);
    this._camera.position.add(move);
    this._controls.target.add(move);
    this.redraw();
  }

  /** Come nearer (factor < 1) or go away. */
  zoom(factor) {
    this._atHome = false;
    const { target } = this._controls;
    this._camera.position.sub(target).multiplyScalar(factor).add(target);
    this.redraw();
  }

  /** Draw anew. */
  redraw() {
    this._fresh = true;
    this._schedule();
  }

  /** Take the cloud away. */
  clear() {
    this.setBoxes(null);
    this._points?.dispose();
    this._points = null;
    this._cloudScene.clear();
    this._lineScene.clear();
    this._renderer.clear();
  }

  _distance() {
    return this._camera.position.distanceTo(this._controls.target);
  }

  _go(target, eye, fly) {
    this._atHome = false;
    this._flight = null;
    if (fly && this._controls.enableDamping) {
      this._flight = { since: performance.now(), from: [this._controls.target.clone(), this._camera.position.clone()], to: [target, eye] };
    } else {
      this._controls.target.copy(target);
      this._camera.position.copy(eye);
    }
    this.redraw();
  }

  _fly() {
    const share = Math.min(1, (performance.now() - this._flight.since) / FLIGHT_MS);
    const eased = share * share * (3 - 2 * share);
    const { from, to } = this._flight;
    this._controls.target.lerpVectors(from[0], to[0], eased);
    this._camera.position.lerpVectors(from[1], to[1], eased);
    if (share === 1) this._flight = null;
    this._fresh = true;
  }

  _resize() {
    const { clientWidth: width, clientHeight: height } = this._canvas;
    if (!width || !height) return;
    this._camera.aspect = width / height;
    if (this._atHome) this.home(false);
    this.redraw();
  }

  _schedule() {
    this._scheduled ??= requestAnimationFrame((now) => {
      this._scheduled = null;
      this._frame(now);
    });
  }

  _frame(now) {
    if (!this._points) return;
    if (this._flight) this._fly();
    this._controls.update(); // with damping it moves on, says so, and `change` asks for the next frame
    const { count } = this._points;
    const budget = this._pace.next(now, count, this._fresh);
    if (this._fresh) {
      this._fresh = false;
      const coarse = this._pace.coarse && this._pace.running;
      const size = this._size(coarse ? 0.5 : 1);
      this._prepareCamera(budget / count, size);
      this._points.range(0, budget);
      this._target.draw(this._renderer, this._cloudScene, this._camera, size);
      this._show(size);
      this._boxes?.place((point) => this._project(point), this._boxesShown);
      this._drawn = budget < count || coarse ? 0 : count;
    } else if (this._drawn < count) {
      // The rest of a large cloud, while nothing moves.
      const size = this._size(1);
      this._prepareCamera(1, size);
      this._points.range(this._drawn, Math.min(budget, count - this._drawn));
      this._target.add(this._renderer, this._cloudScene, this._camera, size, this._drawn === 0);
      this._drawn = Math.min(count, this._drawn + budget);
      if (this._drawn === count) {
        this._target.swap();
        this._show(size);
      }
    }
    if (this._flight || this._fresh || this._drawn < count) this._schedule();
    const resting = !this._scheduled;
    if (resting) this._pace.rest();
    this._onFrame({ resting, budget, count, fps: this._pace.fps });
  }

  /** Return the picture's size in pixels: all of the screen's (up to two a CSS pixel) or a share of them. */
  _size(share) {
    const ratio = Math.min(devicePixelRatio, 2) * share;
    const { clientWidth, clientHeight } = this._canvas;
    return { width: Math.floor(clientWidth * ratio), height: Math.floor(clientHeight * ratio), ratio };
  }

  _show({ width, height, ratio }) {
    if (this._canvas.width !== width || this._canvas.height !== height) {
      this._renderer.setSize(width, height, false);
      this._boxes?.resize(width, height, ratio);
    }
    this._target.show(this._renderer, this._camera, ratio);
    this._renderer.render(this._lineScene, this._camera);
  }

  _prepareCamera(share, { height, ratio }) {
    const distance = this._distance();
    const { radius, target } = this._extent;
    const reach = this._camera.position.distanceTo(target.clone().applyQuaternion(this._turn));
    this._camera.near = Math.max(distance * 0.02, 1e-4 * radius);
    this._camera.far = reach + 12 * radius;
    this._camera.updateProjectionMatrix();
    this._camera.lookAt(this._controls.target);
    this._camera.updateMatrixWorld();
    const perUnit = height / (2 * Math.tan((this._camera.fov * Math.PI) / 360));
    const { pixels, sizes } = this._points.material.uniforms;
    // Fewer points are drawn larger, so that surfaces stay closed.
    pixels.value = 1.6 * this._points.spacing * this._pointSize * perUnit / Math.sqrt(Math.max(share, 0.2));
    sizes.value.set(1.3 * ratio * this._pointSize, 14 * ratio);
  }

  _project(point) {
    const own = point.clone().applyQuaternion(this._turn).applyMatrix4(this._camera.matrixWorldInverse);
    const depth = -own.z;
    own.applyMatrix4(this._camera.projectionMatrix);
    const { clientWidth: width, clientHeight: height } = this._canvas;
    return { x: ((own.x + 1) / 2) * width, y: ((1 - own.y) / 2) * height, depth };
  }
}
