// The cloud as one geometry. What colour a point has, and whether it is seen, the shader looks up: to switch a class
// off or to colour by something else changes a few numbers, whatever the number of points.

import {
  BufferAttribute, BufferGeometry, DataTexture, GLSL3, NearestFilter, Points, RawShaderMaterial, Sphere, Vector2,
  Vector3,
} from "../vendor/three/three.module.min.js";
import { NO_CLASS, objectColor, rampBytes } from "./palette.js";

export const MODES = ["class", "object", "height", "intensity", "color", "confidence"];
const WIDE = 1024;

const VERTEX = `
precision highp float;
precision highp int;
uniform mat4 modelViewMatrix, projectionMatrix;
uniform int mode, selected;
uniform vec3 up;
uniform vec2 heights, sizes;
uniform float pixels;
uniform sampler2D classColors, objectColors, ramp;
in vec3 position;
in vec4 tag, paint;
out vec3 shade;

vec3 onRamp(float share) {
  return texelFetch(ramp, ivec2(int(clamp(share, 0.0, 1.0) * 255.0), 0), 0).rgb;
}

void main() {
  int label = int(tag.x + 0.5);
  int object = int(tag.y + 0.5);
  vec4 ofClass = texelFetch(classColors, ivec2(min(label, ${WIDE - 1}), 0), 0);
  if (ofClass.a < 0.5) {
    gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
    return;
  }
  shade = ofClass.rgb;
  if (mode == 1 && object > 0) shade = texelFetch(objectColors, ivec2(object % ${WIDE}, object / ${WIDE}), 0).rgb;
  if (mode == 2) shade = onRamp((dot(position, up) - heights.x) / (heights.y - heights.x));
  if (mode == 3) shade = onRamp(tag.z / 65535.0);
  if (mode == 4) shade = paint.rgb;
  if (mode == 5) shade = onRamp(tag.w / 65535.0);
  if (selected > 0 && object != selected) shade = mix(shade, vec3(0.5), 0.72);
  gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0);
  gl_PointSize = clamp(pixels / gl_Position.w, sizes.x, sizes.y);
}`;

const FRAGMENT = `
precision highp float;
in vec3 shade;
out vec4 color;
void main() {
  color = vec4(shade, 1.0);
}`;

function texture(bytes, width, height) {
  const made = new DataTexture(bytes, width, height);
  made.magFilter = made.minFilter = NearestFilter;
  made.needsUpdate = true;
  return made;
}

/** A cloud (see cloud.js) on the graphics card. */
export class PointSet {
  constructor(cloud, { low, high }) {
    this.count = cloud.drawn;
    this._cloud = cloud;
    const geometry = new BufferGeometry();
    geometry.setAttribute("position", new BufferAttribute(cloud.position, 3));
    geometry.setAttribute("tag", new BufferAttribute(cloud.tag, 4));
    if (cloud.paint) geometry.setAttribute("paint", new BufferAttribute(cloud.paint, 4, true));
    geometry.boundingSphere = new Sphere(new Vector3(), Infinity);
    this._classBytes = new Uint8Array(WIDE * 4).fill(255);
    const rows = Math.ceil((cloud.objects + 2) / WIDE);
    const objects = new Uint8Array(WIDE * rows * 4);
    for (let i = 1; i <= cloud.objects; i++) objects.set([...objectColor(i - 1), 255], 4 * i);
    this.material = new RawShaderMaterial({
      glslVersion: GLSL3,
      vertexShader: VERTEX,
      fragmentShader: FRAGMENT,
      uniforms: {
        mode: { value: 0 },
        selected: { value: 0 },
        up: { value: new Vector3(0, 0, 1) },
        heights: { value: new Vector2(0, 1) },
        sizes: { value: new Vector2(1, 16) },
        pixels: { value: 1 },
        classColors: { value: texture(this._classBytes, WIDE, 1) },
        objectColors: { value: texture(objects, WIDE, rows) },
        ramp: { value: texture(rampBytes(), 256, 1) },
      },
    });
    this.object = new Points(geometry, this.material);
    this.object.frustumCulled = false;
    this._geometry = geometry;
    const sides = [high.x - low.x, high.y - low.y, high.z - low.z].sort((a, b) => b - a);
    // As if the points lay evenly on a surface as large as the cloud's largest face.
    this.spacing = Math.sqrt(Math.max(sides[0] * sides[1], 1e-12) / Math.max(1, cloud.drawn));
  }

  /** Draw these rows of the (evenly spread) order only. */
  range(start, count) {
    this._geometry.setDrawRange(start, count);
  }

  /** Colour by one of MODES. */
  colorBy(mode) {
    this.material.uniforms.mode.value = MODES.indexOf(mode);
  }

  /** Give the classes their colours; `hidden` is a set of class ids. */
  paintClasses(colors, hidden) {
    for (let i = 0; i < WIDE; i++) {
      const id = i - 1;
      this._classBytes.set([...(colors.get(id) ?? NO_CLASS), hidden.has(id) ? 0 : 255], 4 * i);
    }
    this.material.uniforms.classColors.value.needsUpdate = true;
  }

  /** Say what is up (unit vector); returns the [low, high] that the ramp of heights spans. */
  setUp(up) {
    const heights = [];
    const step = Math.max(1, Math.floor(this.count / 20000));
    for (let i = 0; i < this.count; i += step) heights.push(up.dot(new Vector3().fromArray(this._cloud.position, 3 * i)));
    heights.sort((a, b) => a - b);
    const low = heights[Math.floor(heights.length * 0.02)] ?? 0;
    const high = heights[Math.floor(heights.length * 0.98)] ?? 1;
    this.material.uniforms.up.value.copy(up);
    this.material.uniforms.heights.value.set(low, high > low ? high : low + 1);
    return [low, high];
  }

  /** Give everything back to the graphics card. */
  dispose() {
    const { classColors, objectColors, ramp } = this.material.uniforms;
    for (const held of [classColors.value, objectColors.value, ramp.value, this.material, this._geometry]) held.dispose();
  }
}
