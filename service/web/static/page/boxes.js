// Measured boxes in the scene: their edges, and tags with their sizes that stay beside them.

import { Group, Vector3 } from "../vendor/three/three.module.min.js";
import { make } from "./dom.js";
import { makeEdges } from "./edges.js";
import { css, objectColor } from "./palette.js";

const SIGNS = [-1, 1];
const NARROW = 560; // CSS pixels: the picture of a telephone

/** Return a measured box in the scene's own coordinates: {id, center, halves: [length, width, height half axes]}. */
function placed(box, origin, metresPerUnit) {
  const center = new Vector3(...box.center.map((value, axis) => value - origin[axis]));
  const sizes = [box.length_m, box.width_m, box.height_m];
  const halves = box.rotation.map((axis, i) => new Vector3(...axis).multiplyScalar(sizes[i] / metresPerUnit / 2));
  return { id: box.id, box, center, halves };
}

/** Return the four edges of a placed box along its axis 0, 1 or 2, as pairs of ends. */
function edgesAlong({ center, halves }, axis) {
  const [a, b] = [0, 1, 2].filter((other) => other !== axis);
  return SIGNS.flatMap((s) =>
    SIGNS.map((t) => {
      const middle = center.clone().addScaledVector(halves[a], s).addScaledVector(halves[b], t);
      return [middle.clone().sub(halves[axis]), middle.clone().add(halves[axis])];
    }),
  );
}

/** The boxes of a cloud. `words(box)` returns {all, sides: [length, width, height]}, the texts of the tags. */
export class BoxSet {
  constructor(boxes, origin, metresPerUnit, tags, { words, onSelect }) {
    this._placed = boxes.filter((box) => box.measured).map((box) => placed(box, origin, metresPerUnit));
    const segments = this._placed.flatMap((one) =>
      [0, 1, 2].flatMap((axis) =>
        edgesAlong(one, axis).map(([from, to]) => ({ from: from.toArray(), to: to.toArray(), color: objectColor(one.id) })),
      ),
    );
    this._edges = makeEdges(segments);
    this.object = new Group();
    this.object.add(this._edges.object);
    this._words = words;
    this._selected = -1;
    this._tags = new Map();
    for (const { id, box } of this._placed) {
      const tag = make("div", { className: "tag" }, make("b", { textContent: String(id) }), make("span"));
      tag.style.setProperty("--own", css(objectColor(id)));
      tag.addEventListener("click", () => onSelect(box.id));
      tags.append(tag);
      this._tags.set(id, tag);
    }
    this._sides = [0, 1, 2].map(() => make("div", { className: "tag side", hidden: true }));
    tags.append(...this._sides);
  }

  resize(width, height, ratio) {
    this._edges.resize(width, height, ratio);
    this._narrow = width / ratio < NARROW;
  }

  select(id) {
    this._selected = id;
  }

  /** Return {center, radius} of a box, or null. */
  find(id) {
    const one = this._placed.find((candidate) => candidate.id === id);
    return one ? { center: one.center, radius: Math.hypot(...one.halves.map((half) => half.length())) } : null;
  }

  /** Put the tags where their boxes are in the picture. `project(point)` returns {x, y, depth} in CSS pixels. */
  place(project, shown) {
    const taken = [];
    const tops = this._placed.map((one) => {
      const ends = SIGNS.map((sign) => project(one.center.clone().addScaledVector(one.halves[2], sign)));
      return { one, at: ends[0].y < ends[1].y ? ends[0] : ends[1] };
    });
    tops.sort((a, b) => (b.one.id === this._selected) - (a.one.id === this._selected) || a.at.depth - b.at.depth);
    for (const { one, at } of tops) {
      const tag = this._tags.get(one.id);
      tag.hidden = !shown || at.depth <= 0;
      if (tag.hidden) continue;
      tag.classList.toggle("selected", one.id === this._selected);
      tag.lastChild.textContent = this._words(one.box).all;
      tag.style.transform = `translate(${at.x.toFixed(1)}px, ${at.y.toFixed(1)}px) translate(-50%, -130%)`;
      // Where there is no room for its size, a tag shows its number alone.
      const area = { x: at.x, y: at.y, wide: 16 + 7 * tag.lastChild.textContent.length, high: 24 };
      const clash = (this._narrow && one.id !== this._selected) || taken.some((b) => Math.abs(b.x - area.x) < (b.wide + area.wide) / 2 && Math.abs(b.y - area.y) < b.high);
      tag.classList.toggle("brief", clash);
      taken.push(clash ? { ...area, wide: 22 } : area);
    }
    this._placeSides(project, shown);
  }

  _placeSides(project, shown) {
    const one = this._placed.find((candidate) => candidate.id === this._selected);
    this._sides.forEach((tag, axis) => {
      tag.hidden = !shown || !one;
      if (tag.hidden) return;
      const middles = edgesAlong(one, axis).map(([from, to]) => project(from.clone().add(to).multiplyScalar(0.5)));
      // The lowest edge in the picture for what lies, the outermost for what stands: nothing of the box hides those.
      const across = project(one.center).x;
      const better = (a, b) => (axis < 2 ? b.y > a.y : Math.abs(b.x - across) > Math.abs(a.x - across));
      const best = middles.reduce((a, b) => (better(a, b) ? b : a));
      tag.hidden = best.depth <= 0;
      tag.textContent = this._words(one.box).sides[axis];
      tag.style.transform = `translate(${best.x.toFixed(1)}px, ${best.y.toFixed(1)}px) translate(-50%, -50%)`;
    });
  }

  dispose() {
    this._edges.dispose();
    for (const tag of [...this._tags.values(), ...this._sides]) tag.remove();
  }
}
