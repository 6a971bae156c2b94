// The table of boxes beside the picture.

import { count, element, make, show } from "./dom.js";
import { css, objectColor } from "./palette.js";
import { inPart, length, partWords, volume } from "./sizes.js";

const SIDES = ["length_m", "width_m", "height_m"];

export class Table {
  /** `onSelect(id)` is told which box is chosen; -1: none any more. */
  constructor(onSelect) {
    this._onSelect = onSelect;
    this._boxes = [];
    this._selected = -1;
  }

  /** Show the boxes of a measurement, in a unit. */
  set(boxes, unit) {
    this._boxes = boxes;
    const measured = boxes.filter((box) => box.measured).length;
    element("boxes-title").textContent = boxes.length === 1 ? "1 box" : `${boxes.length} boxes`;
    const note = element("boxes-note");
    show(note, measured < boxes.length);
    note.textContent = `${boxes.length - measured} of them could not be measured in full; the table says why.`;
    element("boxes-table").tBodies[0].replaceChildren(...boxes.map((box) => this._row(box, unit)));
    show(element("boxes-scroll"), boxes.length > 0);
    show(element("boxes-interval"), measured > 0 || boxes.some(inPart));
    show(element("boxes"), true);
    this.select(this._selected);
  }

  _row(box, unit) {
    const button = make("button", { type: "button", className: "box-name", "aria-pressed": "false" });
    const swatch = make("span", { className: "swatch", "aria-hidden": "true" });
    swatch.style.background = css(objectColor(box.id));
    button.append(swatch, make("span", { className: "unseen", textContent: "Box " }), String(box.id));
    button.title = `${count(box.points)} points, ${Math.round(100 * box.score)} % sure`;
    button.addEventListener("click", () => this._onSelect(this._selected === box.id ? -1 : box.id));
    const row = make("tr", {}, make("th", { scope: "row" }, button));
    row.dataset.box = box.id;
    if (!box.measured) {
      const cell = make("td", { colSpan: 4, className: "reason" });
      if (inPart(box)) cell.append(make("b", { textContent: partWords(box, unit) }));
      cell.append(box.reason);
      row.append(cell);
      return row;
    }
    for (const side of SIDES) row.append(figure(length(box[side], unit), box.uncertainty?.[side], (value) => length(value, unit)));
    row.append(figure(volume(box.volume_m3), box.uncertainty?.volume_m3, (value) => volume(value, box.volume_m3)));
    return row;
  }

  /** Mark a box as chosen. */
  select(id) {
    this._selected = id;
    for (const row of element("boxes-table").tBodies[0].rows) {
      const chosen = Number(row.dataset.box) === id;
      row.classList.toggle("selected", chosen);
      row.querySelector("button").setAttribute("aria-pressed", String(chosen));
      if (chosen) row.scrollIntoView({ block: "nearest" });
    }
  }
}

function figure(text, uncertainty, format) {
  const cell = make("td", {}, text);
  if (uncertainty != null) cell.append(make("small", { textContent: `± ${format(uncertainty)}` }));
  return cell;
}
