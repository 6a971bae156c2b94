// Eye-dome lighting (Boucheny 2009): points that lie behind their neighbours in the picture are darkened, which shows
// shape where a cloud has no light of its own.

import {
  DepthTexture, GLSL3, Mesh, NearestFilter, OrthographicCamera, PlaneGeometry, RawShaderMaterial, UnsignedIntType,
  Vector2, WebGLRenderTarget,
} from "../vendor/three/three.module.min.js";

const VERTEX = `
precision highp float;
in vec3 position;
void main() {
  gl_Position = vec4(position.xy, 0.0, 1.0);
}`;

const FRAGMENT = `
precision highp float;
uniform sampler2D color, depth;
uniform vec2 planes;
uniform float reach, strength;
out vec4 outColor;

float away(float z) {
  return planes.x * planes.y / (planes.y - z * (planes.y - planes.x));
}

void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  ivec2 size = textureSize(depth, 0);
  float z = texelFetch(depth, at, 0).x;
  if (z >= 1.0) discard;
  float own = log2(away(z));
  float behind = 0.0;
  for (int i = 0; i < 8; i++) {
    float angle = float(i) * 0.7853981634;
    ivec2 next = at + ivec2(round(vec2(cos(angle), sin(angle)) * reach));
    float other = texelFetch(depth, clamp(next, ivec2(0), size - 1), 0).x;
    if (other < 1.0) behind += max(0.0, own - log2(away(other)));
  }
  float light = max(0.25, exp(-strength * behind / 8.0));
  outColor = vec4(texelFetch(color, at, 0).rgb * light, 1.0);
  gl_FragDepth = z;
}`;

function picture() {
  const depthTexture = new DepthTexture(1, 1, UnsignedIntType);
  return new WebGLRenderTarget(1, 1, { depthTexture, minFilter: NearestFilter, magFilter: NearestFilter });
}

/** Two pictures of points: one that is shown, with shading, and one that points are added to until it is complete. */
export class ShadedTarget {
  constructor() {
    this._front = picture();
    this._back = picture();
    this._material = new RawShaderMaterial({
      glslVersion: GLSL3,
      vertexShader: VERTEX,
      fragmentShader: FRAGMENT,
      uniforms: {
        color: { value: null },
        depth: { value: null },
        planes: { value: new Vector2() },
        reach: { value: 1.5 },
        strength: { value: 28 },
      },
    });
    this._quad = new Mesh(new PlaneGeometry(2, 2), this._material);
    this._quad.frustumCulled = false;
    this._camera = new OrthographicCamera();
  }

  /** Make the shown picture anew from this scene; size: {width, height, ratio} in pixels. */
  draw(renderer, scene, camera, size) {
    this._into(this._front, renderer, scene, camera, size, true);
  }

  /** Add the scene to the other picture; with `fresh`, to an empty one. */
  add(renderer, scene, camera, size, fresh) {
    this._into(this._back, renderer, scene, camera, size, fresh);
  }

  /** Show the other picture from now on. */
  swap() {
    [this._front, this._back] = [this._back, this._front];
  }

  /** Put the shown picture, with its depths, on the canvas, which must be as large; `ratio`: pixels in a CSS pixel. */
  show(renderer, camera, ratio) {
    const { color, depth, planes, reach } = this._material.uniforms;
    reach.value = Math.max(1, 1.4 * ratio);
    color.value = this._front.texture;
    depth.value = this._front.depthTexture;
    planes.value.set(camera.near, camera.far);
    renderer.clear();
    renderer.render(this._quad, this._camera);
  }

  _into(target, renderer, scene, camera, { width, height }, fresh) {
    if (target.width !== width || target.height !== height) target.setSize(width, height);
    renderer.setRenderTarget(target);
    if (fresh) renderer.clear();
    renderer.render(scene, camera);
    renderer.setRenderTarget(null);
  }
}
