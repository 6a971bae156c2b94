// The labelled cloud as files. PLY is at hand; the service writes the other formats from the same file.

import { element, make, show } from "./dom.js";
import { toCsv } from "./reader.js";

// Word, and what a screen reader says beside it.
const FILES = [
  ["ply", "PLY", "labelled cloud"],
  ["las", "LAS", "labelled cloud"],
  ["laz", "LAZ", "labelled cloud, compressed LAS"],
  ["pcd", "PCD", "labelled cloud"],
  ["npz", "NPZ", "labelled cloud, NumPy arrays"],
  ["csv", "CSV", "labelled cloud, a line for each point"],
];
const BOXES = [
  ["boxes.csv", "Boxes, CSV", "sizes of the boxes"],
  ["boxes.json", "Boxes, JSON", "boxes with corners and sizes"],
];

/** Hand a Blob to the browser's downloads. */
function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/**
 * Offer the files of a result.
 *
 * `result` has name (without an ending), labelled (a PLY as a Blob) and measurement (or null).
 * `fetchFile(output)` and `fetchBoxes(output)` ask the service and return {blob, name}; what they throw, `onProblem`
 * is told.
 */
export function offerDownloads(result, { fetchFile, fetchBoxes, onProblem }) {
  const made = {
    ply: async () => ({ blob: result.labelled, name: `${result.stem}_labelled.ply` }),
    csv: async () => ({ blob: await toCsv(result.labelled), name: `${result.stem}_labelled.csv` }),
    "boxes.csv": () => fetchBoxes("csv"),
    "boxes.json": async () => ({
      blob: new Blob([JSON.stringify(result.measurement, null, 1)], { type: "application/json" }),
      name: `${result.stem}_boxes.json`,
    }),
  };
  const list = result.measurement?.boxes.length ? [...FILES, ...BOXES] : FILES;
  const note = element("download-note");
  note.textContent = "";
  const buttons = list.map(([word, text, about]) => {
    const button = make("button", { type: "button", className: "plain", textContent: text, "aria-label": `${text}: ${about}` });
    button.dataset.output = word;
    button.addEventListener("click", async () => {
      button.disabled = true;
      note.textContent = `Making ${text} ...`;
      try {
        const { blob, name } = await (made[word] ?? (() => fetchFile(word)))();
        save(blob, name);
        note.textContent = `${name} is in your downloads.`;
      } catch (error) {
        note.textContent = "";
        onProblem(error);
      } finally {
        button.disabled = false;
        button.focus();
      }
    });
    return button;
  });
  element("files").replaceChildren(...buttons);
  show(element("downloads"), true);
}
