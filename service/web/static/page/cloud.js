// A labelled PLY as what the graphics card draws. Runs in the worker.

import { parsePly } from "./ply.js";

const SAMPLE = 20000;
const TOP = 65535;

/**
 * Return the cloud of a PLY's bytes:
 *   points: rows of the file; drawn: how many of them have finite coordinates, and are in the arrays
 *   origin: [x, y, z] that is subtracted from the file's coordinates, so that single precision holds them
 *   position: Float32Array, 3 a point
 *   tag: Uint16Array, 4 a point: class id + 1, object + 1, intensity 0..65535, confidence 0..65535
 *   paint: Uint8Array, 4 a point: red, green, blue, 255; null where the file has no colours
 *   has: which of intensity, confidence, instance there is
 *   intensity: [low, high] that 0 and 65535 stand for
 *   classes: as in parsePly; labels: [[class id, points]]; objects: most object number + 1
 *
 * The points are in an order of which every beginning is spread evenly over the file: fewer of them are drawn while
 * the view moves.
 */
export function readCloud(buffer) {
  const { count, classes, properties } = parsePly(buffer);
  const get = (name) => properties.get(name)?.read;
  const [x, y, z] = ["x", "y", "z"].map(get);
  const origin = middle([x, y, z], count);
  const colors = ["red", "green", "blue"].map(get);
  const [label, instance, intensity, confidence] = ["label", "instance", "intensity", "confidence"].map(get);
  const range = intensity ? percentiles(intensity, count) : [0, 1];

  const position = new Float32Array(3 * count);
  const tag = new Uint16Array(4 * count);
  const paint = colors[0] ? new Uint8Array(4 * count) : null;
  const labels = new Map();
  let objects = 0;
  let drawn = 0;
  const step = stride(count);
  for (let turn = 0, row = 0; turn < count; turn++, row = (row + step) % count) {
    const id = label ? label(row) : -1;
    labels.set(id, (labels.get(id) ?? 0) + 1);
    const px = x(row) - origin[0];
    const py = y(row) - origin[1];
    const pz = z(row) - origin[2];
    if (!Number.isFinite(px + py + pz)) continue;
    position[3 * drawn] = px;
    position[3 * drawn + 1] = py;
    position[3 * drawn + 2] = pz;
    const object = instance ? instance(row) : -1;
    if (object >= objects) objects = object + 1;
    tag[4 * drawn] = Math.min(id + 1, TOP);
    tag[4 * drawn + 1] = Math.min(object + 1, TOP);
    if (intensity) tag[4 * drawn + 2] = TOP * unit(intensity(row), range);
    if (confidence) tag[4 * drawn + 3] = TOP * unit(confidence(row), [0, 1]);
    if (paint) {
      paint[4 * drawn] = colors[0](row);
      paint[4 * drawn + 1] = colors[1](row);
      paint[4 * drawn + 2] = colors[2](row);
      paint[4 * drawn + 3] = 255;
    }
    drawn++;
  }
  return {
    points: count,
    drawn,
    origin,
    position,
    tag,
    paint,
    has: { intensity: Boolean(intensity), confidence: Boolean(confidence), instance: Boolean(instance) },
    intensity: range,
    classes,
    labels: [...labels],
    objects,
  };
}

function unit(value, [low, high]) {
  const share = (value - low) / (high - low);
  return share > 0 ? Math.min(share, 1) : 0; // NaN becomes 0
}

/** Return a number without a common divisor with `count`, near its golden section: multiples of it fill evenly. */
function stride(count) {
  let step = Math.max(1, Math.round(count * 0.6180339887));
  while (divisor(step, count) !== 1) step++;
  return step % count;
}

function divisor(a, b) {
  return b ? divisor(b, a % b) : a;
}

/** Return the middle of the coordinates as whole numbers: where the file's are exact, differences from them are. */
function middle(axes, count) {
  return axes.map((read) => {
    const values = finite(read, count);
    return values.length ? Math.round(values[values.length >> 1]) : 0;
  });
}

function percentiles(read, count) {
  const values = finite(read, count);
  const low = values[Math.floor(values.length * 0.02)] ?? 0;
  const high = values[Math.floor(values.length * 0.98)] ?? 1;
  return high > low ? [low, high] : [low, low + 1];
}

/** Return some of a column's values that are numbers, in order of size. */
function finite(read, count) {
  const step = Math.max(1, Math.floor(count / SAMPLE));
  const values = [];
  for (let row = 0; row < count; row += step) {
    const value = read(row);
    if (Number.isFinite(value)) values.push(value);
  }
  return Float64Array.from(values).sort();
}
