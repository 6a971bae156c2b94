// Which side of a cloud is up, and where to look at it from, when nobody says.

import { Vector3 } from "../vendor/three/three.module.min.js";

const SAMPLE = 4000;
const ELEVATION = (34 * Math.PI) / 180;
const TURN = (16 * Math.PI) / 180;
const TRIES = 200;

/** Return {target, radius, low, high, sample, inside}: a cloud's middle and size without its outermost points. */
export function extent(cloud) {
  const step = Math.max(1, Math.floor(cloud.drawn / SAMPLE));
  const sample = [];
  for (let i = 0; i < cloud.drawn; i += step) sample.push(new Vector3().fromArray(cloud.position, 3 * i));
  if (!sample.length) sample.push(new Vector3());
  const low = new Vector3();
  const high = new Vector3();
  for (const axis of ["x", "y", "z"]) {
    const values = sample.map((point) => point[axis]).sort((a, b) => a - b);
    low[axis] = values[Math.floor(values.length * 0.01)];
    high[axis] = values[Math.ceil(values.length * 0.99) - 1];
  }
  const target = low.clone().add(high).multiplyScalar(0.5);
  const radius = Math.max(low.distanceTo(high) / 2, 1e-6);
  const within = (point) => ["x", "y", "z"].every((axis) => point[axis] >= low[axis] && point[axis] <= high[axis]);
  const inside = sample.filter(within);
  return { target, radius, low, high, sample, inside: inside.length ? inside : sample };
}

/**
 * Return {up, backward}, unit vectors: what is up, and the direction from the cloud to the eye.
 *
 * A cloud that one depth camera at the file's origin took is seen from near that camera, since it has no other side.
 * Every other cloud has z up, and is seen obliquely from above.
 */
export function firstView(cloud, { target, radius, inside }, knownUp) {
  const camera = new Vector3(...cloud.origin).negate();
  const toCamera = camera.clone().sub(target);
  if (seenFrom(camera, inside, toCamera, radius)) {
    const backward = toCamera.clone().normalize();
    const up = knownUp ?? floorNormal(inside, radius, backward);
    return { up, backward: beside(backward, up) };
  }
  const up = knownUp ?? new Vector3(0, 0, 1);
  const across = new Vector3(-0.55, -1, 0.1).projectOnPlane(up).normalize();
  return { up, backward: across.multiplyScalar(Math.cos(ELEVATION)).addScaledVector(up, Math.sin(ELEVATION)) };
}

/** Whether a camera may have taken the cloud: all of it in a cone, not far away, nothing close by. */
function seenFrom(camera, inside, toCamera, radius) {
  const away = toCamera.length();
  if (away < 0.3 * radius || away > 6 * radius) return false;
  const cosines = inside.map((point) => -point.clone().sub(camera).normalize().dot(toCamera) / away).sort((a, b) => a - b);
  const distances = inside.map((point) => point.distanceTo(camera)).sort((a, b) => a - b);
  const low = Math.floor(inside.length * 0.01);
  return cosines[low] > Math.cos((52 * Math.PI) / 180) && distances[low] > 0.1 * radius;
}

/** Return the eye's direction turned a little beside the camera's, and lifted to look down at the floor. */
function beside(backward, up) {
  const right = new Vector3().crossVectors(up, backward);
  if (right.length() < 0.2) return backward;
  right.normalize();
  const turned = backward.clone().applyAxisAngle(up, TURN);
  const height = Math.asin(Math.min(1, Math.max(-1, turned.dot(up))));
  const wanted = Math.max(height, (24 * Math.PI) / 180);
  return turned.projectOnPlane(up).normalize().multiplyScalar(Math.cos(wanted)).addScaledVector(up, Math.sin(wanted));
}

/** Return the normal, towards the eye, of the plane that most points lie on; the same one each time. */
function floorNormal(inside, radius, backward) {
  let state = 1;
  const random = () => (state = (state * 48271) % 2147483647) % inside.length;
  let best = new Vector3(0, -1, 0);
  let most = -1;
  const a = new Vector3();
  const b = new Vector3();
  for (let turn = 0; turn < TRIES; turn++) {
    const corner = inside[random()];
    const normal = new Vector3().crossVectors(a.subVectors(inside[random()], corner), b.subVectors(inside[random()], corner));
    if (normal.length() === 0) continue;
    normal.normalize();
    const offset = normal.dot(corner);
    let count = 0;
    for (const point of inside) if (Math.abs(normal.dot(point) - offset) < 0.02 * radius) count++;
    if (count > most) [best, most] = [normal, count];
  }
  if (best.dot(backward) < 0) best.negate();
  // A floor seen flat on says nothing of the picture's upper side: y is down in a camera's frame.
  return best.dot(backward) < 0.94 ? best : new Vector3(0, -1, 0);
}

/** Return how far from the target an eye must be to have all points in its view. */
export function fitDistance(points, target, right, up, backward, tangentX, tangentY) {
  const needed = points.map((point) => {
    const own = point.clone().sub(target);
    const depth = own.dot(backward);
    return depth + Math.max(Math.abs(own.dot(right)) / tangentX, Math.abs(own.dot(up)) / tangentY);
  });
  needed.sort((a, b) => a - b);
  return needed[Math.floor((needed.length - 1) * 0.997)];
}
