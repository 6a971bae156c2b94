// The classes with their counts; each can be hidden. For colours that stand for numbers, the ramp.

import { count, element, make, show } from "./dom.js";
import { NO_CLASS, css, rampBytes } from "./palette.js";

export class Legend {
  /** `onChange(colors, hidden)` is told of a Map of class id to [r, g, b] and of the Set of hidden ids. */
  constructor(onChange) {
    this._onChange = onChange;
    const bar = element("ramp-bar").getContext("2d");
    bar.putImageData(new ImageData(Uint8ClampedArray.from(rampBytes()), 256, 1), 0, 0);
  }

  /** Show these classes ([{id, name, color: [r, g, b]}]); `labels` is [[id, points]]. */
  set(classes, labels) {
    const counts = new Map(labels);
    const known = new Map(classes.map((one) => [one.id, one]));
    for (const [id] of labels) {
      if (id === -1) known.set(-1, { id, name: "without a label", color: null });
      else if (!known.has(id)) known.set(id, { id, name: `class ${id}`, color: null });
    }
    const total = labels.reduce((sum, [, points]) => sum + points, 0);
    this._colors = new Map([...known.values()].map(({ id, color }) => [id, color ?? NO_CLASS]));
    this._hidden = new Set();
    // What there is stands before what there is none of.
    const order = [...known.values()].sort((a, b) => Boolean(counts.get(b.id)) - Boolean(counts.get(a.id)));
    element("classes").replaceChildren(...order.map((one) => this._row(one, counts.get(one.id) ?? 0, total)));
    show(element("legend"), true);
    this._onChange(this._colors, this._hidden);
  }

  _row({ id, name }, points, total) {
    const box = make("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      if (box.checked) this._hidden.delete(id);
      else this._hidden.add(id);
      this._onChange(this._colors, this._hidden);
    });
    const swatch = make("span", { className: "swatch", "aria-hidden": "true" });
    swatch.style.background = css(this._colors.get(id));
    const share = points ? `${((100 * points) / total).toFixed(1)} %` : "";
    const label = make("label", {}, box, swatch, make("span", { className: "name", textContent: name }));
    label.append(make("span", { className: "count", textContent: count(points) }), make("span", { className: "share", textContent: share }));
    return make("li", { className: points ? "" : "absent" }, label);
  }

  /** Show what the ends of the ramp stand for, or (null) no ramp. */
  ramp(ends) {
    show(element("ramp"), ends !== null);
    if (!ends) return;
    [element("ramp-low").textContent, element("ramp-high").textContent] = ends;
  }
}
