// The edges of boxes as lines of a width in pixels, which the graphics card's own lines do not have.

import {
  BufferAttribute, BufferGeometry, DoubleSide, GLSL3, GreaterDepth, LessEqualDepth, Mesh, RawShaderMaterial, Vector2,
} from "../vendor/three/three.module.min.js";

const VERTEX = `
precision highp float;
uniform mat4 modelViewMatrix, projectionMatrix;
uniform vec2 size;
uniform float width;
in vec3 position, other, tint;
in float side;
out vec3 shade;
void main() {
  vec4 here = projectionMatrix * modelViewMatrix * vec4(position, 1.0);
  vec4 there = projectionMatrix * modelViewMatrix * vec4(other, 1.0);
  vec2 along = there.xy / max(there.w, 1e-6) - here.xy / max(here.w, 1e-6);
  vec2 across = normalize(vec2(-(along * size).y, (along * size).x) + 1e-9);
  here.xy += across * side * width / size * here.w;
  here.z -= 0.0008 * here.w; // in front of the points of the box's own faces
  gl_Position = here;
  shade = tint;
}`;

const FRAGMENT = `
precision highp float;
uniform float opacity;
in vec3 shade;
out vec4 color;
void main() {
  color = vec4(shade, opacity);
}`;

/**
 * Return {object, resize(width, height, ratio), dispose()} of line segments.
 *
 * segments: [{from: [x, y, z], to: [x, y, z], color: [r, g, b] in 0..255}]. What is behind points is drawn faintly.
 */
export function makeEdges(segments) {
  const vertices = segments.length * 4;
  const [position, other, tint] = [3, 3, 3].map((size) => new Float32Array(vertices * size));
  const side = new Float32Array(vertices);
  const index = [];
  segments.forEach(({ from, to, color }, number) => {
    const first = 4 * number;
    [[from, to, 1], [from, to, -1], [to, from, -1], [to, from, 1]].forEach(([here, there, sign], corner) => {
      position.set(here, 3 * (first + corner));
      other.set(there, 3 * (first + corner));
      tint.set(color.map((value) => value / 255), 3 * (first + corner));
      side[first + corner] = sign;
    });
    index.push(first, first + 1, first + 2, first + 2, first + 1, first + 3);
  });
  const geometry = new BufferGeometry();
  const attributes = { position: [position, 3], other: [other, 3], tint: [tint, 3], side: [side, 1] };
  for (const [name, [array, size]] of Object.entries(attributes)) geometry.setAttribute(name, new BufferAttribute(array, size));
  geometry.setIndex(index);
  const uniforms = { size: { value: new Vector2(1, 1) }, width: { value: 2 } };
  const shared = { glslVersion: GLSL3, vertexShader: VERTEX, fragmentShader: FRAGMENT, side: DoubleSide, depthWrite: false };
  const front = new RawShaderMaterial({ ...shared, uniforms: { ...uniforms, opacity: { value: 1 } }, depthFunc: LessEqualDepth });
  const back = new RawShaderMaterial({
    ...shared,
    uniforms: { ...uniforms, opacity: { value: 0.3 } },
    depthFunc: GreaterDepth,
    transparent: true,
  });
  const object = new Mesh(geometry, front);
  const behind = new Mesh(geometry, back);
  object.frustumCulled = behind.frustumCulled = false;
  object.add(behind);
  return {
    object,
    resize(width, height, ratio) {
      uniforms.size.value.set(width, height);
      uniforms.width.value = 2.2 * ratio;
    },
    dispose() {
      for (const held of [geometry, front, back]) held.dispose();
    },
  };
}
