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
in vec2 side;
out vec3 shade;
out float off;
void main() {
  vec4 here = projectionMatrix * modelViewMatrix * vec4(position, 1.0);
  vec4 there = projectionMatrix * modelViewMatrix * vec4(other, 1.0);
  vec2 along = there.xy / max(there.w, 1e-6) - here.xy / max(here.w, 1e-6);
  vec2 across = normalize(vec2(-(along * size).y, (along * size).x) + 1e-9);
  here.xy += across * side.x * width / size * here.w;
  here.z -= 0.002 * here.w; // in front of the points of the box's own faces
  gl_Position = here;
  shade = tint;
  off = side.y;
}`;

const FRAGMENT = `
precision highp float;
uniform float opacity;
in vec3 shade;
in float off; // -1 and 1 at the rims, 0 along the middle
out vec4 color;
void main() {
  // Dark within light: seen against points of its own colour, and against a ground of any.
  vec3 own = abs(off) < 0.5 ? shade * 0.42 : mix(shade, vec3(1.0), 0.72);
  color = vec4(own, opacity);
}`;

/**
 * Return {object, resize(width, height, ratio), dispose()} of line segments.
 *
 * segments: [{from: [x, y, z], to: [x, y, z], color: [r, g, b] in 0..255}]. What is behind points is drawn faintly.
 */
export function makeEdges(segments) {
  const vertices = segments.length * 4;
  const [position, other, tint] = [3, 3, 3].map((size) => new Float32Array(vertices * size));
  const side = new Float32Array(vertices * 2);
  const index = [];
  segments.forEach(({ from, to, color }, number) => {
    const first = 4 * number;
    // Seen from the other end, left is right: the second number is the rim, the same along the whole edge.
    const corners = [[from, to, 1, 1], [from, to, -1, -1], [to, from, -1, 1], [to, from, 1, -1]];
    corners.forEach(([here, there, sign, rim], corner) => {
      position.set(here, 3 * (first + corner));
      other.set(there, 3 * (first + corner));
      tint.set(color.map((value) => value / 255), 3 * (first + corner));
      side.set([sign, rim], 2 * (first + corner));
    });
    index.push(first, first + 1, first + 2, first + 2, first + 1, first + 3);
  });
  const geometry = new BufferGeometry();
  const attributes = { position: [position, 3], other: [other, 3], tint: [tint, 3], side: [side, 2] };
  for (const [name, [array, size]] of Object.entries(attributes)) geometry.setAttribute(name, new BufferAttribute(array, size));
  geometry.setIndex(index);
  const uniforms = { size: { value: new Vector2(1, 1) }, width: { value: 2 } };
  const shared = { glslVersion: GLSL3, vertexShader: VERTEX, fragmentShader: FRAGMENT, side: DoubleSide, depthWrite: false };
  const front = new RawShaderMaterial({ ...shared, uniforms: { ...uniforms, opacity: { value: 1 } }, depthFunc: LessEqualDepth });
  const back = new RawShaderMaterial({
    ...shared,
    uniforms: { ...uniforms, opacity: { value: 0.22 } },
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
      uniforms.width.value = 3.6 * ratio;
    },
    dispose() {
      for (const held of [geometry, front, back]) held.dispose();
    },
  };
}
